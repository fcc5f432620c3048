"""Transport for the Hub's HTTP client: each request by the rule of `Network`, and proxy errors as those of Paddock."""

from __future__ import annotations

import re
import ssl
import threading
from contextlib import ExitStack

import httpx2

from paddock.errors import HubUnavailable
from paddock.network.certificates import is_untrusted
from paddock.network.proxies import HttpProxy
from paddock.network.rule import Network

_STATUS = re.compile(r"(\d{3})\b")


class ProxiedTransport(httpx2.BaseTransport):
    """Sends each request through the proxy for its URL, also after a redirect to another host.

    Raises BadSetting for settings that cannot be used, ProxyRefused, HubUnavailable, and the errors of httpx2.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._transports: dict[tuple[HttpProxy | None, str], httpx2.HTTPTransport] = {}
        self._closing = ExitStack()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        proxy = self._network.proxy_for(str(request.url))
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

    def close(self) -> None:
        self._closing.close()

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
        return httpx2.HTTPTransport(
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
