"""A forwarding HTTP proxy, and a TLS server in front of a plain one.

The proxy forwards requests with an absolute address, opens tunnels for CONNECT, and records what came through. With
`credentials`, it answers 407 to requests that lack them.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

from tests.support.http_server import QuietHandler, QuietServer, serving

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "proxy-authorization", "proxy-connection"}
_BUFFER_BYTES = 256 * 1024


@dataclass
class ForwardProxy:
    """`forwarded` has `METHOD host:port` for each request and tunnel that came through; `refused` counts the 407s and
    refused tunnels. `tunnel_status`, if set, is the answer to every CONNECT."""

    address: str
    credentials: str | None = None
    tunnel_status: int | None = None
    forwarded: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def netloc(self) -> str:
        return urlsplit(self.address).netloc


@contextmanager
def forward_proxy(*, credentials: str | None = None, context: ssl.SSLContext | None = None) -> Iterator[ForwardProxy]:
    """Run a proxy until the context ends; with `context`, it is reached by TLS."""

    class Handler(QuietHandler):
        def _is_allowed(self) -> bool:
            expected = None if proxy.credentials is None else b64encode(proxy.credentials.encode()).decode()
            if expected is None or self.headers.get("Proxy-Authorization") == f"Basic {expected}":
                return True
            proxy.refused += 1
            self._answer(407, {"Proxy-Authenticate": "Basic"})
            return False

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_CONNECT(self) -> None:  # noqa: N802 - the name is http.server's
            if not self._is_allowed():
                return
            if proxy.tunnel_status is not None:
                proxy.refused += 1
                self._answer(proxy.tunnel_status, {})
                return
            host, _, port = self.path.rpartition(":")
            proxy.forwarded.append(f"CONNECT {self.path}")
            with socket.create_connection((host, int(port))) as upstream:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(self.connection, upstream)
            self.close_connection = True

        def _forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if not self._is_allowed():
                return
            target = urlsplit(self.path)
            proxy.forwarded.append(f"{self.command} {target.netloc}")
            upstream = http.client.HTTPConnection(target.netloc, timeout=60)
            try:
                path = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
                upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                self._copy(upstream.getresponse())
            finally:
                upstream.close()

        def _copy(self, response: http.client.HTTPResponse) -> None:
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.close_connection = response.getheader("Content-Length") is None
            self.end_headers()
            while block := response.read(_BUFFER_BYTES):
                self.wfile.write(block)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - the names are http.server's

    class Server(QuietServer):
        def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
            with suppress(OSError):
                if context is not None:
                    request = context.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)
                request.close()

    server = Server(("127.0.0.1", 0), Handler)
    proxy = ForwardProxy(f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}", credentials)
    with serving(server):
        yield proxy


@contextmanager
def tls_server(context: ssl.SSLContext, upstream: Callable[[], int]) -> Iterator[str]:
    """Serve what listens on a port of the loopback address by TLS, until the context ends; yield the address.

    `upstream` gives the port, which may be known only later.
    """

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", upstream())) as server,
            ):
                relay(client, server)

    class Server(ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server, serving(server):
        yield f"https://127.0.0.1:{server.server_address[1]}"


def relay(client: socket.socket, server: socket.socket) -> None:
    """Copy bytes in both directions until both sides have ended."""
    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
    back.start()
    _copy(client, server)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(_BUFFER_BYTES):
            target.sendall(block)
    for side in (source, target):
        with suppress(OSError):
            socket.socket.shutdown(side, socket.SHUT_RDWR)
