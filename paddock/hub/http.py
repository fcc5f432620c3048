"""huggingface_hub's HTTP client, of which a process has one, and the token that huggingface_hub stored."""

from __future__ import annotations

import re
import threading
import warnings
from typing import TYPE_CHECKING

from paddock.errors import BadSetting
from paddock.network import Network

if TYPE_CHECKING:
    import httpx2

# Issued when huggingface_hub is imported: Paddock handles the variable itself (`paddock.transfer.backends`).
warnings.filterwarnings("ignore", message="The `HF_HUB_ENABLE_HF_TRANSFER`", category=FutureWarning)

_TOKEN = re.compile(r"[!-~]+")
_BYTE_ORDER_MARK = "\ufeff"


def stored_token() -> str | None:
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
        self._used: tuple[Network, str, bool] | None = None

    def use(self, network: Network, endpoint: str, *, for_files: bool = False) -> None:
        """Send the next requests by the rule of this network, to the Hub at `endpoint`. `for_files`: answers may be
        large files, which are streamed; else each is read as a whole, within bounds."""
        from huggingface_hub import constants, set_client_factory

        wanted = network, endpoint, for_files
        with self._lock:
            if wanted != self._used:
                # Else the first request of each thread is followed by one for the names of AI agents, for telemetry.
                constants.HF_HUB_DISABLE_TELEMETRY = True
                set_client_factory(lambda: _http_client(network, endpoint, for_files=for_files))
                self._used = wanted


SHARED_CLIENT = _SharedClient()


def _http_client(network: Network, endpoint: str, *, for_files: bool) -> httpx2.Client:
    """A client like huggingface_hub's own, except for proxies, certificates, the servers that it may be redirected to,
    and bounds on answers."""
    import httpx2

    from paddock.hub.answers import BoundedAnswers
    from paddock.network.transport import ProxiedTransport

    transport: httpx2.BaseTransport = (
        ProxiedTransport(network, server=endpoint, answer_s=None)
        if for_files
        else BoundedAnswers(ProxiedTransport(network, server=endpoint))
    )
    return httpx2.Client(transport=transport, follow_redirects=True, timeout=None, trust_env=False)
