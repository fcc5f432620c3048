"""Checks of S3 and of the Hub: that they answer and accept the credentials, what S3 can do, and their clocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from paddock.errors import HubRefused, HubUnavailable, PaddockError
from paddock.hub import map_hub_errors
from paddock.lifecycle.clients import Clients, open_remote_store
from paddock.lifecycle.upkeep.doctor.check import CheckResult, failure
from paddock.model.artifact import SnapshotFile
from paddock.model.names import Sha256, printable
from paddock.network import Network
from paddock.store.features import FEATURES
from paddock.store.protocol import RemoteStore

_TIMEOUT_S: Final = 2.0
"""boto3 tries three times: an S3 that does not answer is reported within the limit of a check."""
_ANSWER_BYTES: Final = 64 * 1024
_SKEW_S: Final = 60.0
_REFUSED_SKEW_S: Final = 900.0
"""From this difference on, S3 refuses a signature."""
_FEATURE_CURE: Final = "give the keys the permissions that docs/store-in-s3.md lists, or use a server that has this"

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    date: datetime | None


def utc_now() -> datetime:
    return datetime.now(UTC)


def check_s3(clients: Clients, *, now: Now = utc_now) -> Sequence[CheckResult]:
    """S3 answers, accepts the keys, has each feature, and has the time of this machine."""
    settings = clients.settings
    if settings.s3_uri is None:
        return [CheckResult("S3", True, "not used: PADDOCK_S3_URI is not set")]
    hasty = replace(settings, stall_s=min(_TIMEOUT_S, settings.stall_s))
    try:
        remote = open_remote_store(settings.s3_uri, hasty)
        remote.check()
    except PaddockError as error:
        return [failure("S3", error)]
    results = [CheckResult("S3", True, f"{remote.label} answers")]
    for feature, report in zip(FEATURES, remote.features().rows, strict=True):
        message = report.message if report.ok else f"{report.message}: {report.lost}"
        cure = "" if report.ok else _FEATURE_CURE
        results.append(CheckResult(f"S3: {feature.name}", report.ok, message, cure, feature.is_needed))
    return [*results, *_s3_clock(remote, now)]


def _s3_clock(remote: RemoteStore, now: Now) -> list[CheckResult]:
    """Every answer has the time, also one that refuses a request without a signature."""
    nothing = SnapshotFile(path="clock", size=0, sha256=Sha256("0" * 64), segments=())
    address = remote.source(nothing).address()
    parts = urlsplit(address.url)
    try:
        answer = _request(f"{parts.scheme}://{parts.netloc}/", address.network, {})
    except PaddockError:  # the requests before were answered: a proxy lets none through that is not signed
        return []
    return _clock("S3: clock", answer.date, now)


def check_hub(clients: Clients, *, now: Now = utc_now) -> Sequence[CheckResult]:
    """The Hub answers, accepts the token if there is one, and has the time of this machine."""
    hub = clients.hub
    if clients.settings.hub_offline:
        return [CheckResult("Hub", True, "not asked: HF_HUB_OFFLINE is set")]
    try:
        token = hub.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = _request(f"{hub.endpoint}/api/whoami-v2", hub.network, headers)
        message = _account(hub.endpoint, answer, has_token=token is not None)
    except PaddockError as error:
        offline = "" if isinstance(error, HubRefused) else "; HF_HUB_OFFLINE=1 where there is no Hub"
        return [CheckResult("Hub", False, error.message, f"{error.cure}{offline}")]
    return [CheckResult("Hub", True, message), *_clock("Hub: clock", answer.date, now)]


def _account(endpoint: str, answer: _Answer, *, has_token: bool) -> str:
    """Describe the token by the Hub's answer. Raises HubRefused, HubUnavailable."""
    if answer.status in {401, 403}:
        if has_token:
            raise HubRefused(
                f"{endpoint} refuses the token (status {answer.status})",
                cure="set HF_TOKEN to a token that is valid, or unset it and run `hf auth login` or `hf auth logout`",
            )
        return f"{endpoint} answers; there is no token, so gated and private repositories are closed"
    if answer.status == 429 or answer.status >= 500:
        raise HubUnavailable(f"{endpoint} answers with status {answer.status}", cure="try again later")
    if answer.status == 404:  # a mirror without accounts
        return f"{endpoint} answers, and knows no accounts"
    try:
        name = json.loads(answer.body)["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise HubRefused(
            f"{endpoint} does not answer as a Hub (status {answer.status})", cure="check HF_ENDPOINT and the proxy"
        ) from None
    return f"{endpoint} answers; the token is that of {printable(str(name))}"


def _clock(name: str, server: datetime | None, now: Now) -> list[CheckResult]:
    if server is None:
        return []
    skew_s = abs((now() - server).total_seconds())
    if skew_s <= _SKEW_S:
        return [CheckResult(name, True, f"differs by {skew_s:.0f} s")]
    message = f"differs by {skew_s:.0f} s from this machine's: S3 refuses signatures from {_REFUSED_SKEW_S:.0f} s on"
    cure = "set this machine's clock, for instance with `timedatectl set-ntp true`"
    return [CheckResult(name, False, message, cure, needed=skew_s >= _REFUSED_SKEW_S)]


def _request(url: str, network: Network, headers: Mapping[str, str]) -> _Answer:
    """Send one request, and read the beginning of its answer. Raises the errors of `map_hub_errors`."""
    import httpx2

    from paddock.network.transport import ProxiedTransport

    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    with map_hub_errors(origin, "a request that checks it", network=network):
        client = httpx2.Client(
            transport=ProxiedTransport(network, server=origin),
            follow_redirects=True,
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        with client, client.stream("GET", url, headers=dict(headers)) as response:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _ANSWER_BYTES:
                    break
            return _Answer(response.status_code, body, _date(response.headers.get("Date")))


def _date(text: str | None) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError):
        return None
    return parsed.replace(tzinfo=parsed.tzinfo or UTC) if parsed else None
