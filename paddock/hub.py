"""What the Hub has: the one room that speaks huggingface_hub.

It resolves a branch or tag to a commit, lists the files of a revision with their digests, and gives the address of one
file's bytes. It moves no model data, unless huggingface_hub's own way is asked for (`download`): that is
`paddock.transfer`. Every error of huggingface_hub leaves as one of ours
(`translated`).
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from paddock.errors import (
    BadSetting,
    FileNotInRevision,
    HubRefused,
    HubUnavailable,
    ModelGated,
    ModelNotFound,
    PaddockError,
    RevisionNotFound,
    UnsafeName,
)
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.names import ModelName, Revision, parse_ref, parse_revision, parse_sha256, printable
from paddock.model.source import Address, Expected, HubLocation
from paddock.version import VERSION

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoSibling

    from paddock.settings import Settings

# Said at its import: Paddock honours the variable itself (`paddock.transfer.backends`).
warnings.filterwarnings("ignore", message="The `HF_HUB_ENABLE_HF_TRANSFER`", category=FutureWarning)

_TIMEOUT_S = 20.0
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_PORTS = {"http": 80, "https": 443}


@contextmanager
def translated(endpoint: str, what: str) -> Iterator[None]:
    """Raise the errors of huggingface_hub and of its HTTP client as Paddock's own, with `what` in the sentence.

    `LocalEntryNotFoundError` is tested before its parent `EntryNotFoundError`: it stands for a connection that failed,
    and the parent is permanent. The errors of Python's own come from huggingface_hub reading an answer: ValueError
    where it is no JSON (a page of a captive portal, which passes), the others where it is JSON of another shape.
    """
    import httpx2
    from huggingface_hub import errors as vendor

    try:
        yield
    except (vendor.OfflineModeIsEnabled, vendor.LocalTokenNotFoundError) as error:
        raise HubRefused(f"the Hub was not asked for {what}: {_first_line(error)}") from None
    except vendor.GatedRepoError:
        raise ModelGated(
            f"{what} is gated on {endpoint}",
            cure="accept its terms on the Hub, then set HF_TOKEN to a token of that account",
        ) from None
    except vendor.RepositoryNotFoundError:
        raise ModelNotFound(
            f"{what} is not on {endpoint}, or is private",
            cure="check the name, and set HF_TOKEN if it is private",
        ) from None
    except vendor.RevisionNotFoundError:
        raise RevisionNotFound(f"{what} is not on {endpoint}", cure="use a branch, tag or commit that it has") from None
    except vendor.LocalEntryNotFoundError as error:
        raise HubUnavailable(
            f"{endpoint} could not be asked for {what}: {_first_line(error)}", cure="try again"
        ) from None
    except vendor.EntryNotFoundError:
        raise FileNotInRevision(f"{what} is not on {endpoint}", cure="list the repository's files") from None
    except vendor.DisabledRepoError:
        raise HubRefused(f"{what} is disabled on {endpoint}", cure="choose another repository") from None
    except vendor.HfHubHTTPError as error:
        raise _from_status(error, endpoint, what) from None
    except vendor.HFValidationError as error:
        raise HubRefused(f"huggingface_hub does not take {what}: {_first_line(error)}") from None
    except (httpx2.LocalProtocolError, UnicodeEncodeError):  # its text quotes the header, with the token in it
        raise BadSetting(
            f"the request to {endpoint} for {what} cannot be written", cure="check that HF_TOKEN is a token"
        ) from None
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise _no_answer(endpoint, what, "its answer has another form") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise HubUnavailable(
            f"{endpoint} did not answer for {what}: {_first_line(error) or type(error).__name__}",
            cure="check the network and HF_ENDPOINT, then try again",
        ) from None


def _from_status(error: HfHubHTTPError, endpoint: str, what: str) -> PaddockError:
    status = error.response.status_code
    if status in _BUSY:
        after = error.response.headers.get("Retry-After", "")
        return HubUnavailable(
            f"{endpoint} answered {status} for {what}",
            cure="try again later",
            retry_after_s=float(after[:9]) if after.isascii() and after.isdigit() else None,
        )
    if status in {401, 403}:
        return HubRefused(f"{endpoint} answered {status} for {what}", cure="set HF_TOKEN to a token that may read it")
    return HubRefused(f"{endpoint} answered {status} for {what}", cure="check HF_ENDPOINT: a Hub answers otherwise")


def _no_answer(endpoint: str, what: str, reason: str) -> HubRefused:
    return HubRefused(f"{endpoint} did not answer for {what} as a Hub does: {reason}", cure="check HF_ENDPOINT")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]


class Hub:
    """A client of one Hub. Making one dials nothing."""

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.hub_endpoint
        self._offline = settings.hub_offline
        self._token = settings.hub_token

    def listing(self, model: ModelName, ref: str = "main") -> Listing:
        """Resolve `ref` to a commit and list every file of it, in one request.

        Raises ModelNotFound, ModelGated, RevisionNotFound, HubRefused, and HubUnavailable, which is worth another try.
        """
        what = str(model) if ref == "main" else f"{model}@{parse_ref(ref)}"
        api = self._api(what)
        with translated(self.endpoint, what):
            info = api.model_info(str(model), revision=ref, files_metadata=True, timeout=_TIMEOUT_S)
        try:
            return _listing(model, info)
        except (TypeError, UnsafeName) as error:
            raise _no_answer(self.endpoint, what, str(error)) from None

    def file(self, model: ModelName, revision: Revision, file: RepositoryFile) -> HubFile:
        """One file of a revision as a source for `paddock.transfer`. Asks nothing yet."""
        return HubFile(hub=self, model=model, revision=revision, file=file)

    def locate(self, model: ModelName, revision: Revision, path: str) -> Address:
        """Ask where the bytes of one file are now. A token goes along only to the Hub's own scheme, host and port."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        what = f"{model}@{revision[:8]}: {path}"
        self._api(what)
        token = self.token()
        with translated(self.endpoint, what):
            url = hf_hub_url(str(model), path, revision=revision, endpoint=self.endpoint)
            found = get_hf_file_metadata(url, token=token or False, timeout=_TIMEOUT_S, endpoint=self.endpoint)
            target, here = urlsplit(found.location), urlsplit(self.endpoint)
            own = _origin(target) == _origin(here)
        if found.commit_hash and found.commit_hash != revision:
            raise HubRefused(
                f"{self.endpoint} answered with commit {found.commit_hash[:40]!r} for {what}", cure="try again"
            )
        if target.scheme not in _PORTS or not target.hostname or (here.scheme, target.scheme) == ("https", "http"):
            raise _no_answer(self.endpoint, what, f"it leads from {here.scheme} to {printable(target.scheme) or 'nowhere'}")
        headers = {"User-Agent": f"paddock/{VERSION}"}
        if own and token:
            headers["Authorization"] = f"Bearer {token}"
        return Address(found.location, headers)

    def token(self) -> str | None:
        """The one that was set, else what `hf auth login` stored."""
        from huggingface_hub import get_token

        return self._token.get_secret_value() if self._token else get_token()

    def _api(self, what: str) -> HfApi:
        if self._offline:
            raise HubRefused(
                f"the Hub was not asked for {what}: HF_HUB_OFFLINE is set", cure="unset it to reach the Hub"
            )
        from huggingface_hub import HfApi

        return HfApi(
            endpoint=self.endpoint,
            token=self._token.get_secret_value() if self._token else None,
            library_name="paddock",
            library_version=VERSION,
        )


def download(place: HubLocation, directory: Path) -> Path:
    """Let huggingface_hub bring a file into a directory of its own, by Xet where the Hub has it there.

    It compares nothing but the size, and resumes nothing. Raises what `translated` does.
    """
    from huggingface_hub import hf_hub_download

    with translated(place.endpoint, f"{place.repository}@{place.revision[:8]}: {place.path}"):
        return Path(
            hf_hub_download(
                place.repository,
                place.path,
                revision=place.revision,
                endpoint=place.endpoint,
                local_dir=directory,
                token=place.token or False,
            )
        )


def _listing(model: ModelName, info: ModelInfo) -> Listing:
    """huggingface_hub checks no type of what the Hub said. Raises TypeError or UnsafeName."""
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(
        model=model,
        revision=parse_revision(_text(info.sha, "the commit")),
        files=tuple(sorted(map(_file, info.siblings or []), key=lambda file: file.path)),
        licence=licence if isinstance(licence, str) else None,
        library=info.library_name if isinstance(info.library_name, str) else None,
    )


def _file(one: RepoSibling) -> RepositoryFile:
    path = _text(one.rfilename, "a file name")
    size = one.lfs.size if one.lfs else one.size
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(f"the size of {printable(path)} is {str(size)[:40]!r}")
    if one.lfs:
        return RepositoryFile(path, size, parse_sha256(_text(one.lfs.sha256, f"the digest of {printable(path)}")), None)
    if one.blob_id is not None and not _GIT_SHA1.fullmatch(_text(one.blob_id, f"the digest of {printable(path)}")):
        raise TypeError(f"the digest of {printable(path)} is {one.blob_id[:80]!r}")
    return RepositoryFile(path, size, None, one.blob_id)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {str(value)[:40]!r}")
    return value


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


@dataclass
class HubFile:
    """A file of the Hub as a source of bytes. The address is asked for once, and again when it has expired."""

    hub: Hub
    model: ModelName
    revision: Revision
    file: RepositoryFile

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._address: Address | None = None

    @property
    def label(self) -> str:
        return f"{self.model}@{self.revision[:8]}: {self.file.path}"

    @property
    def expected(self) -> Expected:
        return Expected(self.file.size, self.file.sha256, self.file.git_sha1)

    @property
    def hub_location(self) -> HubLocation:
        return HubLocation(self.hub.endpoint, str(self.model), self.revision, self.file.path, self.hub.token())

    def address(self, *, renew: bool = False) -> Address:
        with self._lock:
            if self._address is None or renew:
                self._address = self.hub.locate(self.model, self.revision, self.file.path)
            return self._address
