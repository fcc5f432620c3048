"""A way to a real S3 server on which things go wrong on order.

It passes every request on as it came (its host too, so that signatures hold), but for those that a fault meets:

    silent   it takes the request, and never answers
    status   it answers with that status and S3's own code
    slow     it passes the answer on at so many bytes a second
    cut      it passes half of the answer's body on, and closes the connection
    lost     it passes the request on, and closes the connection instead of answering
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}


@dataclass
class Fault:
    """What happens to the requests with one of `methods` whose path has `part` in it, `times` often; None: always."""

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
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def meet(self, method: str, path: str) -> Fault | None:
        self.requests.append(f"{method} {path.partition('?')[0]}")
        for fault in self.faults:
            if method in fault.methods and fault.part in path and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


@contextmanager
def proxied(endpoint: str) -> Iterator[S3Proxy]:
    """In front of the server at `endpoint`, until the context ends."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            fault = proxy.meet(self.command, self.path)
            if fault and fault.kind == "silent":
                proxy.over.wait(60)
                self.close_connection = True
                return
            if fault and fault.kind == "status":
                self._answer(fault.status, {"Content-Type": "application/xml"}, _error(fault.code))
                return
            server = http.client.HTTPConnection(upstream, timeout=60)
            try:
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP:
                        server.putheader(name, value)
                server.endheaders(body)
                answer = server.getresponse()
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
                body = answer.read()
                if fault and fault.kind == "lost":
                    self.close_connection = True
                else:
                    self._answer(answer.status, headers, body, fault)
            finally:
                server.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
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
                    if proxy.over.is_set():
                        break
                    self.wfile.write(bytes([byte]))
                    time.sleep(1 / fault.bytes_per_s)
            else:
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - the names are http.server's

        def handle(self) -> None:
            with suppress(OSError):  # the client gave up
                super().handle()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    proxy = S3Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="s3-proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>ordered by a test</Message></Error>'.encode()
