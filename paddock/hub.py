"""Client of the Hugging Face Hub: resolve revisions, list files, and locate the bytes of a file.

The only module that imports huggingface_hub. Moving model data is left to `paddock.transfer`, except by
huggingface_hub's own download (`download_file`). Every error of huggingface_hub is raised as one of Paddock's
(`map_hub_errors`).
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
from paddock.network import DIRECT, Network, is_untrusted
from paddock.version import VERSION

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoSibling

    from paddock.settings import Settings

# Issued when huggingface_hub is imported: Paddock handles the variable itself (`paddock.transfer.backends`).
warnings.filterwarnings("ignore", message="The `HF_HUB_ENABLE_HF_TRANSFER`", category=FutureWarning)

_TIMEOUT_S = 20.0
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_USER_AGENT = {"User-Agent": f"paddock/{VERSION}"}
_TOKEN = re.compile(r"[!-~]+")
_BYTE_ORDER_MARK = "\ufeff"
_PORTS = {"http": 80, "https": 443}


@contextmanager
def map_hub_errors(  # noqa: PLR0912 - a branch for each kind of error
    endpoint: str, subject: str, *, network: Network = DIRECT
) -> Iterator[None]:
    """Raise the errors of huggingface_hub and of its HTTP client as Paddock's, with `subject` in the message. Those of
    the transport are Paddock's already.

    `LocalEntryNotFoundError` is caught before its parent `EntryNotFoundError`: it means that a connection failed, and
    the parent is permanent. Python's own errors come from huggingface_hub parsing a response: ValueError if it is not
    JSON (a page of a captive portal, so worth a retry), the others if it is JSON of another shape.
    """
    import httpx2
    from huggingface_hub import errors as vendor

    try:
        yield
    except PaddockError:
        raise
    except (vendor.OfflineModeIsEnabled, vendor.LocalTokenNotFoundError) as error:
        raise HubRefused(f"the Hub was not contacted for {subject}: {_first_line(error)}") from None
    except vendor.GatedRepoError:
        raise ModelGated(
            f"{subject} is gated on {endpoint}",
            cure="accept its terms on the Hub, then set HF_TOKEN to a token of that account",
        ) from None
    except vendor.RepositoryNotFoundError:
        raise ModelNotFound(
            f"{subject} is not on {endpoint}, or is private",
            cure="check the name, and set HF_TOKEN if it is private",
        ) from None
    except vendor.RevisionNotFoundError:
        raise RevisionNotFound(
            f"{subject} is not on {endpoint}", cure="use an existing branch, tag or commit"
        ) from None
    except vendor.LocalEntryNotFoundError as error:
        raise HubUnavailable(
            f"{endpoint} could not be reached for {subject}: {_first_line(error)}", cure="try again"
        ) from None
    except vendor.EntryNotFoundError:
        raise FileNotInRevision(f"{subject} is not on {endpoint}", cure="list the repository's files") from None
    except vendor.DisabledRepoError:
        raise HubRefused(f"{subject} is disabled on {endpoint}", cure="choose another repository") from None
    except vendor.HfHubHTTPError as error:
        raise _from_status(error, endpoint, subject) from None
    except vendor.HFValidationError as error:
        raise HubRefused(f"huggingface_hub does not accept {subject}: {_first_line(error)}") from None
    except (httpx2.LocalProtocolError, UnicodeEncodeError):  # its message quotes the header, with the token
        raise BadSetting(
            f"the request to {endpoint} for {subject} cannot be sent: a header has invalid characters",
            cure="check that HF_TOKEN is a token",
        ) from None
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise _not_a_hub(endpoint, subject, "the JSON of its response has another form") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        if is_untrusted(error):
            raise HubRefused(
                f"the certificate of {endpoint} is not trusted ({_first_line(error)})", cure=network.untrusted_cure
            ) from None
        raise HubUnavailable(
            f"{endpoint} did not answer for {subject}: {_first_line(error) or type(error).__name__}",
            cure="check the network and HF_ENDPOINT, then try again",
        ) from None


def _from_status(error: HfHubHTTPError, endpoint: str, subject: str) -> PaddockError:
    status = error.response.status_code
    if status in _TRANSIENT_STATUS:
        retry_after = error.response.headers.get("Retry-After", "")
        return HubUnavailable(
            f"{endpoint} answered {status} for {subject}",
            cure="try again later",
            retry_after_s=float(retry_after[:9]) if retry_after.isascii() and retry_after.isdigit() else None,
        )
    if status in {401, 403}:
        return HubRefused(
            f"{endpoint} answered {status} for {subject}", cure="set HF_TOKEN to a token that may read it"
        )
    return HubRefused(f"{endpoint} answered {status} for {subject}", cure="check that HF_ENDPOINT is a Hub")


def _not_a_hub(endpoint: str, subject: str, reason: str) -> HubRefused:
    return HubRefused(f"{endpoint} did not respond as a Hub for {subject}: {reason}", cure="check HF_ENDPOINT")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]


class Hub:
    """Client of one Hub. Its constructor sends no request."""

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.hub_endpoint
        self._offline = settings.hub_offline
        self._token = settings.hub_token
        self.network = settings.network

    def listing(self, model: ModelName, ref: str = "main") -> Listing:
        """Resolve `ref` (a branch, tag or commit) and list all files of that commit, in one request.

        Raises UnsafeName, ModelNotFound, ModelGated, RevisionNotFound, HubRefused, and HubUnavailable, which may be
        retried.
        """
        subject = str(model) if ref == "main" else f"{model}@{parse_ref(ref)}"
        api = self._api(subject)
        with map_hub_errors(self.endpoint, subject, network=self.network):
            info = api.model_info(str(model), revision=ref, files_metadata=True, timeout=_TIMEOUT_S)
        try:
            return _listing(model, info)
        except (TypeError, UnsafeName) as error:
            raise _not_a_hub(self.endpoint, subject, str(error)) from None

    def file(self, model: ModelName, revision: Revision, file: RepositoryFile) -> HubFile:
        """One file of a revision as a source for `paddock.transfer`. Sends no request yet."""
        return HubFile(hub=self, model=model, revision=revision, file=file)

    def address(self, model: ModelName, revision: Revision, path: str) -> Address:
        """The Hub's own URL of a file, which it answers with the bytes, or with a redirect to them. Sends no request.

        Raises HubRefused if the Hub may not be contacted, and BadSetting.
        """
        from huggingface_hub import hf_hub_url

        subject = f"{model}@{revision[:8]}: {path}"
        self._require_online(subject)
        with map_hub_errors(self.endpoint, subject):
            url = hf_hub_url(str(model), path, revision=revision, endpoint=self.endpoint)
        token = self.token()
        headers = _USER_AGENT | ({"Authorization": f"Bearer {token}"} if token else {})
        return Address(url, headers, self.network, commit=revision)

    def locate(self, model: ModelName, revision: Revision, path: str) -> Address:
        """Request the current URL of a file's bytes, to which the Hub redirects. Its headers hold the token only for
        the Hub's own scheme, host and port.

        Raises ModelNotFound, ModelGated, RevisionNotFound, FileNotInRevision, HubRefused, and HubUnavailable.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        subject = f"{model}@{revision[:8]}: {path}"
        self._api(subject)
        token = self.token()
        with map_hub_errors(self.endpoint, subject, network=self.network):
            url = hf_hub_url(str(model), path, revision=revision, endpoint=self.endpoint)
            metadata = get_hf_file_metadata(url, token=token or False, timeout=_TIMEOUT_S, endpoint=self.endpoint)
            target, hub = urlsplit(metadata.location), urlsplit(self.endpoint)
            same_origin = _origin(target) == _origin(hub)
        if metadata.commit_hash and metadata.commit_hash != revision:
            raise HubRefused(
                f"{self.endpoint} answered with commit {metadata.commit_hash[:40]!r} for {subject}", cure="try again"
            )
        if target.scheme not in _PORTS or not target.hostname or (hub.scheme, target.scheme) == ("https", "http"):
            raise _not_a_hub(
                self.endpoint, subject, f"it redirects from {hub.scheme} to {printable(target.scheme) or 'nowhere'}"
            )
        headers = _USER_AGENT | ({"Authorization": f"Bearer {token}"} if same_origin and token else {})
        return Address(metadata.location, headers, self.network)

    def token(self) -> str | None:
        """The token of the settings, else the one that `hf auth login` stored; None without either.

        Raises BadSetting for a stored token that cannot be used.
        """
        return self._token.get_secret_value() if self._token else _stored_token()

    def _require_online(self, subject: str) -> None:
        if self._offline:
            raise HubRefused(
                f"the Hub was not contacted for {subject}: HF_HUB_OFFLINE is set", cure="unset it to reach the Hub"
            )

    def _api(self, subject: str) -> HfApi:
        self._require_online(subject)
        from huggingface_hub import HfApi

        _SHARED_CLIENT.use(self.network)
        return HfApi(
            endpoint=self.endpoint,
            token=self.token() or False,  # False: huggingface_hub does not look for one itself
            library_name="paddock",
            library_version=VERSION,
        )


def _stored_token() -> str | None:
    """The token that huggingface_hub finds: that of `hf auth login`, or of a CI provider. Raises BadSetting."""
    from huggingface_hub import constants, get_token

    try:
        token = get_token()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        token = (token or "").removeprefix(_BYTE_ORDER_MARK).strip() or None
        if token is None or _TOKEN.fullmatch(token):
            return token
        reason = "it contains characters that no token has"
    raise BadSetting(
        f"the token file {constants.HF_TOKEN_PATH} is not usable: {reason}",
        cure="remove it and run `hf auth login`, or set HF_TOKEN",
    )


class _SharedClient:
    """huggingface_hub's HTTP client, of which the process has one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._network: Network | None = None

    def use(self, network: Network) -> None:
        """Send the next requests by the rule of this network."""
        from huggingface_hub import set_client_factory

        with self._lock:
            if network != self._network:
                set_client_factory(lambda: _http_client(network))
                self._network = network


_SHARED_CLIENT = _SharedClient()


def _http_client(network: Network) -> httpx2.Client:
    """A client like huggingface_hub's own, except for proxies and certificates."""
    import httpx2

    from paddock.network.transport import ProxiedTransport

    return httpx2.Client(
        transport=ProxiedTransport(network),
        follow_redirects=True,
        timeout=None,
        trust_env=False,
    )


def download_file(location: HubLocation, directory: Path, *, network: Network) -> Path:
    """Download a file into a directory with huggingface_hub, by Xet if the Hub stores it there; return its path.

    huggingface_hub verifies nothing but the size, and does not resume. Raises the errors of `map_hub_errors`.
    """
    from huggingface_hub import hf_hub_download

    _SHARED_CLIENT.use(network)
    subject = f"{location.repository}@{location.revision[:8]}: {location.path}"
    with map_hub_errors(location.endpoint, subject, network=network):
        return Path(
            hf_hub_download(
                location.repository,
                location.path,
                revision=location.revision,
                endpoint=location.endpoint,
                local_dir=directory,
                token=location.token or False,
            )
        )


def _listing(model: ModelName, info: ModelInfo) -> Listing:
    """Validate what huggingface_hub parsed, since it checks no types. Raises TypeError or UnsafeName."""
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(
        model=_name(model, info.id),
        revision=parse_revision(_text(info.sha, "the commit")),
        files=tuple(sorted(map(_file, info.siblings or []), key=lambda file: file.path)),
        licence=licence if isinstance(licence, str) else None,
        library=info.library_name if isinstance(info.library_name, str) else None,
    )


def _name(requested: ModelName, id: object) -> ModelName:
    """The Hub's own name of the repository, which is another than the requested one for a renamed repository, and may
    differ in case. A mirror may send none."""
    try:
        return ModelName.parse(_text(id, "the id"))
    except (TypeError, UnsafeName):
        return requested


def _file(sibling: RepoSibling) -> RepositoryFile:
    path = _text(sibling.rfilename, "a file name")
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(f"the size of {printable(path)} is {str(size)[:40]!r}")
    if sibling.lfs:
        return RepositoryFile(
            path, size, parse_sha256(_text(sibling.lfs.sha256, f"the digest of {printable(path)}")), None
        )
    if sibling.blob_id is not None and not _GIT_SHA1.fullmatch(
        _text(sibling.blob_id, f"the digest of {printable(path)}")
    ):
        raise TypeError(f"the digest of {printable(path)} is {sibling.blob_id[:80]!r}")
    return RepositoryFile(path, size, None, sibling.blob_id)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {str(value)[:40]!r}")
    return value


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


@dataclass
class HubFile:
    """A file of the Hub as a source of bytes.

    Its address is the Hub's own, so that no request is needed before the first one for bytes. Once it was refused, the
    Hub is asked for the address of the bytes, and its answer says why it refuses.
    """

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
            if renew:
                self._address = self.hub.locate(self.model, self.revision, self.file.path)
            elif self._address is None:
                self._address = self.hub.address(self.model, self.revision, self.file.path)
            return self._address
