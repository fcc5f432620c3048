"""Transport for the Hub's HTTP client: each request by the rules of `Network` and `Reach`, and proxy errors as those of
Paddock.

An answer is complete after `answer_s` seconds from the request on, or its connection ends: a server that sends one byte
before each read times out would never end otherwise.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final

import httpcore2
import httpx2

from paddock.errors import HubRefused, HubUnavailable
from paddock.network.certificates import is_untrusted
from paddock.network.proxies import HttpProxy
from paddock.network.reach import FORBIDDEN_CURE, ForbiddenAddress, Reach
from paddock.network.rule import Network
from paddock.plain_text import one_line

ANSWER_S: Final = 60.0
_STATUS = re.compile(r"(\d{3})\b")
_XET_SERVICE: Final = "X-Xet-Cas-Url"
"""The header by which a Hub names the server from which hf_xet, a native library, fetches by itself."""
_PLAIN_ADDRESS: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:[/?][!-\[\]-~]*)?")
"""Programs agree on the host of such an address: it has no user, no backslash, and both slashes."""
_LOCATIONS: ContextVar[list[str] | None] = ContextVar("locations", default=None)


@contextmanager
def recorded_redirects() -> Iterator[list[str]]:
    """Yield a list, to which the address of each redirect is added that this thread's requests follow in the block."""
    locations: list[str] = []
    token = _LOCATIONS.set(locations)
    try:
        yield locations
    finally:
        _LOCATIONS.reset(token)


class ProxiedTransport(httpx2.BaseTransport):
    """Sends each request through the proxy for its URL, also after a redirect to another host.

    `server` is the URL of the server that the settings name: other servers must be within its `Reach`, and are not
    reached without TLS if it has TLS. `answer_s` None: an answer may take any time, as that of a large file.

    Raises BadSetting for settings that cannot be used, ProxyRefused, HubRefused, HubUnavailable, and the errors of
    httpx2.
    """

    def __init__(self, network: Network, *, server: str, answer_s: float | None = ANSWER_S) -> None:
        self._network = network
        self._server = httpx2.URL(server)
        self._reach = Reach.at(server)
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._transports: dict[tuple[HttpProxy | None, str], httpx2.HTTPTransport] = {}
        self._closing = ExitStack()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        proxy = self._network.proxy_for(str(request.url))
        try:
            if (self._server.scheme, request.url.scheme) == ("https", "http"):
                raise ForbiddenAddress(request.url.host, "is not reached by https, as the Hub is")
            if proxy is not None:
                self._reach.check_written(request.url.host)
            response = self._send(request, proxy)
            if service := response.headers.get(_XET_SERVICE):
                self._check_service(response, service, proxied=proxy is not None)
        except ForbiddenAddress as error:
            raise HubRefused(
                f"{self._server.host} leads to {error}, which is not followed", cure=FORBIDDEN_CURE
            ) from None
        locations = _LOCATIONS.get()
        if locations is not None and response.is_redirect:
            locations.append(response.headers.get("Location", ""))
        return response

    def close(self) -> None:
        self._closing.close()

    def _send(self, request: httpx2.Request, proxy: HttpProxy | None) -> httpx2.Response:
        transport = self._transport(proxy, request.url.scheme)
        if proxy is None:
            return transport.handle_request(request)
        try:
            response = transport.handle_request(request)
        except httpx2.ProxyError as error:
            status = _STATUS.match(str(error))
            if status is None:
                raise
            raise proxy.refusal(int(status[1]), request.url.host, HubUnavailable) from None
        except httpx2.ConnectError as error:
            if is_untrusted(error):
                raise
            raise proxy.unreachable(request.url.host, HubUnavailable) from None
        if response.status_code == httpx2.codes.PROXY_AUTHENTICATION_REQUIRED:
            response.close()
            raise proxy.refusal(response.status_code, request.url.host, HubUnavailable)
        return response

    def _check_service(self, response: httpx2.Response, url: str, *, proxied: bool) -> None:
        try:
            if not _PLAIN_ADDRESS.fullmatch(url):
                raise ForbiddenAddress(one_line(url[:100]), "is an address that programs read differently")
            if not proxied:
                self._reach.check(url)
            else:
                self._reach.check_written(httpx2.URL(url).host)
        except ForbiddenAddress:
            response.close()
            raise
        except OSError:  # hf_xet reports a name that it cannot resolve
            pass

    def _transport(self, proxy: HttpProxy | None, scheme: str) -> httpx2.HTTPTransport:
        with self._lock:
            transport = self._transports.get((proxy, scheme))
            if transport is None:
                transport = self._transports[proxy, scheme] = self._make_transport(proxy, scheme)
                self._closing.callback(transport.close)
            return transport

    def _make_transport(self, proxy: HttpProxy | None, scheme: str) -> httpx2.HTTPTransport:
        uses_tls = "https" in {scheme, proxy.scheme if proxy else ""}
        # Plain HTTP works without any certificate: a context that trusts nothing
        context = self._network.ssl_context() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        transport = httpx2.HTTPTransport(
            verify=context,
            trust_env=False,
            proxy=httpx2.Proxy(
                proxy.address,
                auth=None if proxy.user is None else (proxy.user, proxy.password or ""),
                ssl_context=context if proxy.scheme == "https" else None,
            )
            if proxy
            else None,
        )
        # httpx2 has no parameter for it
        backend = _Connections(self._reach if proxy is None else None, self._answer_s)
        transport._pool._network_backend = backend
        return transport


class _Connections(httpcore2.SyncBackend):
    """Opens connections to the addresses that `reach` allows, and to any other where it is None."""

    def __init__(self, reach: Reach | None, answer_s: float | None) -> None:
        self._reach = reach
        self._answer_s = answer_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = [host]
        if self._reach is not None:
            try:
                addresses = self._reach.addresses(host, port)
            except OSError as error:
                raise httpcore2.ConnectError(error.strerror or str(error)) from error
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                stream = super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if last == 0:
                    raise
            else:
                return stream if self._answer_s is None else _AnswerStream(stream, self._answer_s)
        raise httpcore2.ConnectError(f"{host} has no address")


class _AnswerStream(httpcore2.NetworkStream):
    """A connection whose reads end `answer_s` seconds after the last write: the request."""

    def __init__(self, stream: httpcore2.NetworkStream, answer_s: float) -> None:
        self._stream = stream
        self._answer_s = answer_s
        self._ends_at = time.monotonic() + answer_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout(f"the answer was not complete after {self._answer_s:g} s")
        return self._stream.read(max_bytes, left_s if timeout is None else min(timeout, left_s))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._ends_at = time.monotonic() + self._answer_s
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _AnswerStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._answer_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
