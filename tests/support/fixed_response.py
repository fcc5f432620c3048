"""Serve one fixed HTTP response for every request, such as a response that no correct Hub sends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.http_server import QuietHandler, QuietServer, serving


@contextmanager
def fixed_response_server(
    body: bytes = b"", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve until the context ends, and yield the server's URL. HEAD gets the headers alone."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"  # the connection ends with the response, so that clients keep none

        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
