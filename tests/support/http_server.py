"""A small HTTP server in a thread of the test's process, for servers that tests write themselves."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """Handler with kept connections, which logs nothing and ignores clients that disconnect."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(OSError):  # the client disconnected
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[None]:
    """Run a server in a thread until the context ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="test-server")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
