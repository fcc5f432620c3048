"""Serve a directory over HTTP with range requests, from a thread of this process."""

from __future__ import annotations

import functools
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@functools.cache
def address_of(root: Path) -> str:
    """The address of a directory, ending with a slash. Its server runs until this process ends."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, root))
    threading.Thread(target=server.serve_forever, name="directory-store", daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/"


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Print nothing: a client may close its connection at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *args: object) -> None:
        self._root = root
        super().__init__(*args)  # type: ignore[arg-type] # socketserver's own

    def do_GET(self) -> None:
        try:
            content = (self._root / unquote(self.path.lstrip("/"))).read_bytes()
        except FileNotFoundError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        requested = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, end = (int(requested[1]), min(int(requested[2]) + 1, len(content))) if requested else (0, len(content))
        self.send_response(HTTPStatus.PARTIAL_CONTENT if requested else HTTPStatus.OK)
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        """Write no log."""
