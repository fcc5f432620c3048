"""A slow mirror in front of a local Hub: one address for the API and the bytes, and a fixed delay before each response.

It follows the Hub's redirects itself and answers with the bytes, as mirrors do that cache a Hub. Every request is
recorded.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from tests.support.http_server import QuietHandler, QuietServer, serving

_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_PASSED_ON = ("Range", "Authorization", "User-Agent", "Accept-Encoding", "If-Range")
_RETURNED = ("Content-Type", "Content-Length", "Content-Range", "ETag", "Link", "X-Error-Code", "X-Error-Message")
_BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True)
class MirrorRequest:
    """One request: `at_s` since the mirror began, and the response's `status` and body's `size`."""

    at_s: float
    method: str
    path: str
    range: str
    status: int
    size: int

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.method:4} {self.path[:70]:70} {self.range:28} {self.status} {self.size:>10}"


@dataclass
class Mirror:
    address: str
    delay_s: float
    requests: list[MirrorRequest] = field(default_factory=list)
    connections: int = 0
    started: float = field(default_factory=time.monotonic)

    def reset(self) -> None:
        self.requests.clear()
        self.connections, self.started = 0, time.monotonic()


@contextmanager
def mirror_of(upstream: str, *, delay_s: float) -> Iterator[Mirror]:
    """Run a mirror of the Hub at `upstream` until the context ends."""

    class Handler(QuietHandler):
        disable_nagle_algorithm = True

        def _forward(self) -> None:
            at_s = time.monotonic() - mirror.started
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            closed.wait(mirror.delay_s)
            headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
            url, found = urljoin(upstream, self.path), {}
            while True:
                parts = urlsplit(url)
                connection = http.client.HTTPConnection(parts.netloc, timeout=60)
                connection.request(self.command, f"{parts.path}?{parts.query}", body or None, headers)
                response = connection.getresponse()
                for name in ("X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"):
                    if value := response.getheader(name):
                        found[name] = value
                location = response.getheader("Location")
                if response.status not in _REDIRECT_STATUS or not location:
                    break
                connection.close()
                url = urljoin(url, location)
                if urlsplit(url).netloc != parts.netloc:
                    headers.pop("Authorization", None)
            found |= {name: value for name in _RETURNED if (value := response.getheader(name))}
            found["ETag"] = found.get("X-Linked-Etag", found.get("ETag", '""'))
            size = int(found.get("Content-Length", 0))
            range_ = self.headers.get("Range", "")
            mirror.requests.append(MirrorRequest(at_s, self.command, self.path, range_, response.status, size))
            self.send_response_only(response.status)
            for name, value in found.items():
                self.send_header(name, value)
            self.end_headers()
            while self.command != "HEAD" and (block := response.read(_BUFFER_BYTES)):
                self.wfile.write(block)
            connection.close()

        do_GET = do_HEAD = do_POST = _forward  # noqa: N815 - the names are http.server's

        def handle(self) -> None:
            mirror.connections += 1
            super().handle()

    server, closed = QuietServer(("127.0.0.1", 0), Handler), threading.Event()
    mirror = Mirror(f"http://127.0.0.1:{server.server_port}", delay_s)
    with serving(server):
        try:
            yield mirror
        finally:
            closed.set()
