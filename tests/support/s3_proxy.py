"""A reverse proxy in front of a real S3 server that injects faults.

It forwards every request unchanged (the Host header too, so that signatures stay valid), except for those that match a
fault:

    silent   accepts the request, and never responds
    status   responds with the given status and S3 error code
    slow     forwards the response at the given bytes per second
    cut      forwards half of the response's body, and closes the connection
    lost     forwards the request, and closes the connection instead of responding
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.support.http_server import QuietHandler, QuietServer, serving

_HOP_BY_HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}


@dataclass
class S3Fault:
    """A fault of requests with one of `methods` and `part` in the path, for the first `times`; None: always."""

    kind: Literal["silent", "status", "slow", "cut", "lost"]
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    part: str = ""
    times: int | None = None
    status: int = 503
    code: str = "SlowDown"
    bytes_per_s: int = 100


@dataclass
class S3Proxy:
    endpoint: str
    faults: list[S3Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def match(self, method: str, path: str) -> S3Fault | None:
        self.requests.append(f"{method} {path.partition('?')[0]}")
        for fault in self.faults:
            if method in fault.methods and fault.part in path and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


@contextmanager
def proxied(endpoint: str) -> Iterator[S3Proxy]:
    """Run the proxy in front of the server at `endpoint` until the context ends."""
    upstream = urlsplit(endpoint).netloc

    class Handler(QuietHandler):
        def _forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            fault = proxy.match(self.command, self.path)
            if fault and fault.kind == "silent":
                proxy.closed.wait(60)
                self.close_connection = True
                return
            if fault and fault.kind == "status":
                self._respond(fault.status, {"Content-Type": "application/xml"}, _error(fault.code))
                return
            server = http.client.HTTPConnection(upstream, timeout=60)
            try:
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        server.putheader(name, value)
                server.endheaders(body)
                response = server.getresponse()
                headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
                body = response.read()
                if fault and fault.kind == "lost":
                    self.close_connection = True
                else:
                    self._respond(response.status, headers, body, fault)
            finally:
                server.close()

        def _respond(self, status: int, headers: dict[str, str], body: bytes, fault: S3Fault | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault and fault.kind == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif fault and fault.kind == "slow":
                for byte in body:
                    if proxy.closed.is_set():
                        break
                    self.wfile.write(bytes([byte]))
                    time.sleep(1 / fault.bytes_per_s)
            else:
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - the names are http.server's

    server = QuietServer(("127.0.0.1", 0), Handler)
    proxy = S3Proxy(f"http://127.0.0.1:{server.server_port}")
    with serving(server):
        try:
            yield proxy
        finally:
            proxy.closed.set()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected by a test</Message></Error>'.encode()
