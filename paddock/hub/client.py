"""The client of one Hub, and a file of it as a source of bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

from paddock.errors import HubRefused, UnsafeName
from paddock.hub.errors import map_hub_errors, not_a_hub
from paddock.hub.http import SHARED_CLIENT, stored_token
from paddock.hub.listing import OtherAnswer, Request, read_head, read_listing
from paddock.model.artifact import BranchHead, Listing, RepositoryFile
from paddock.model.names import ModelName, Revision, parse_ref, printable
from paddock.model.source import Address, Expected, HubLocation
from paddock.timings import phase
from paddock.version import VERSION

if TYPE_CHECKING:
    from paddock.network import Network
    from paddock.settings import Settings

_TIMEOUT_S = 20.0
_USER_AGENT = {"User-Agent": f"paddock/{VERSION}"}
_PORTS = {"http": 80, "https": 443}
_Answer = TypeVar("_Answer")


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
        return self._info(model, ref, read_listing, blobs=True)

    def head(self, model: ModelName, ref: str = "main") -> BranchHead:
        """Resolve `ref` in one short request, which lists no files. Raises as `listing`."""
        return self._info(model, ref, read_head, expand=["sha"])

    def _info(
        self, model: ModelName, ref: str, read: Callable[[Request, object], _Answer], **parameters: bool | list[str]
    ) -> _Answer:
        """Send the request of `HfApi.model_info`, with huggingface_hub's client. `HfApi` itself has a class for each
        answer of the Hub: importing them takes longer than the request."""
        subject = str(model) if ref == "main" else f"{model}@{parse_ref(ref)}"
        self._prepare(subject)
        from huggingface_hub import get_session, hf_raise_for_status

        from paddock.network.transport import recorded_redirects

        with (
            phase("hub"),
            map_hub_errors(self.endpoint, subject, network=self.network),
            recorded_redirects() as redirects,
        ):
            response = get_session().get(
                f"{self.endpoint}/api/models/{model}/revision/{quote(ref, safe='')}",
                headers=self._headers(),
                params=parameters,
                timeout=_TIMEOUT_S,
            )
            hf_raise_for_status(response)
            answer = response.json()
        try:
            return read(Request(model, ref, redirects), answer)
        except OtherAnswer as error:
            raise HubRefused(
                f"{self.endpoint} was asked for {subject}, and {error}",
                cure="try again; if it stays so, check HF_ENDPOINT and the proxy",
            ) from None
        except (TypeError, UnsafeName) as error:
            raise not_a_hub(self.endpoint, subject, str(error)) from None

    def file(self, model: ModelName, revision: Revision, file: RepositoryFile) -> HubFile:
        """One file of a revision as a source for `paddock.transfer`. Sends no request yet."""
        return HubFile(hub=self, model=model, revision=revision, file=file)

    def address(self, model: ModelName, revision: Revision, path: str) -> Address:
        """The Hub's own URL of a file, which it answers with the bytes, or with a redirect to them. Sends no request.

        Raises HubRefused if the Hub may not be contacted, and BadSetting.
        """
        self._require_online(f"{model}@{revision[:8]}: {path}")
        return Address(self._url(model, revision, path), self._headers(), self.network, commit=revision)

    def locate(self, model: ModelName, revision: Revision, path: str) -> Address:
        """Request the current URL of a file's bytes, to which the Hub redirects. Its headers hold the token only for
        the Hub's own scheme, host and port.

        Raises ModelNotFound, ModelGated, RevisionNotFound, FileNotInRevision, HubRefused, and HubUnavailable.
        """
        from huggingface_hub import get_hf_file_metadata

        subject = f"{model}@{revision[:8]}: {path}"
        self._prepare(subject)
        token = self.token()
        with map_hub_errors(self.endpoint, subject, network=self.network):
            url = self._url(model, revision, path)
            metadata = get_hf_file_metadata(url, token=token or False, timeout=_TIMEOUT_S, endpoint=self.endpoint)
            target, hub = urlsplit(metadata.location), urlsplit(self.endpoint)
            same_origin = _origin(target) == _origin(hub)
        if metadata.commit_hash and metadata.commit_hash != revision:
            raise HubRefused(
                f"{self.endpoint} answered with commit {metadata.commit_hash[:40]!r} for {subject}", cure="try again"
            )
        if target.scheme not in _PORTS or not target.hostname or (hub.scheme, target.scheme) == ("https", "http"):
            raise not_a_hub(
                self.endpoint, subject, f"it redirects from {hub.scheme} to {printable(target.scheme) or 'nowhere'}"
            )
        headers = self._headers() if same_origin else _USER_AGENT
        return Address(metadata.location, headers, self.network, server=self.endpoint)

    def token(self) -> str | None:
        """The token of the settings, else the one that `hf auth login` stored; None without either.

        Raises BadSetting for a stored token that cannot be used.
        """
        return self._token.get_secret_value() if self._token else stored_token()

    def _require_online(self, subject: str) -> None:
        if self._offline:
            raise HubRefused(
                f"the Hub was not contacted for {subject}: HF_HUB_OFFLINE is set", cure="unset it to reach the Hub"
            )

    def _prepare(self, subject: str) -> None:
        """Check that the Hub may be asked, and let huggingface_hub's client follow this Hub's rules."""
        self._require_online(subject)
        SHARED_CLIENT.use(self.network, self.endpoint)

    def _headers(self) -> dict[str, str]:
        token = self.token()
        return _USER_AGENT | ({"Authorization": f"Bearer {token}"} if token else {})

    def _url(self, model: ModelName, revision: Revision, path: str) -> str:
        return f"{self.endpoint}/{model}/resolve/{quote(revision, safe='')}/{quote(path)}"


def download_file(location: HubLocation, directory: Path, *, network: Network) -> Path:
    """Download a file into a directory with huggingface_hub, by Xet if the Hub stores it there; return its path.

    huggingface_hub verifies nothing but the size, and does not resume. Raises the errors of `map_hub_errors`.
    """
    from huggingface_hub import hf_hub_download

    SHARED_CLIENT.use(network, location.endpoint, for_files=True)
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
