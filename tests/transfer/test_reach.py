"""Where the connections of a transfer lead, and how long an answer may take to begin."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.errors import TransferRefused
from paddock.transfer.client import RangeClient
from paddock.transfer.response import RetryableResponseError
from tests.support.http_server import QuietHandler, QuietServer, serving
from tests.transfer.remote import Remote, content, expected, on_hub

DATA = content(4096)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of times that each name was resolved. `bytes.test` leads to this machine first, and to nowhere later."""
    counts: Counter[str] = Counter()
    real = socket.getaddrinfo

    def resolve(host: str, port: Any, *args: Any, **options: Any) -> Any:
        counts[host] += 1
        if host == "bytes.test":
            host = "127.0.0.1" if counts[host] == 1 else "240.0.0.1"
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return counts


@contextmanager
def redirecting(location: str) -> Iterator[str]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.send_response(302)
            self.send_header("Location", location)
            self.end_headers()

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def read(url: str) -> bytes:
    client = RangeClient(Remote(url, expected(DATA)), connections=1, stall_s=0.3)
    try:
        with client.open(0, len(DATA)) as body:
            return b"".join(requested for _, requested in body.chunks(65536))
    finally:
        client.close()


def test_a_name_is_resolved_once_and_connected_to_where_it_was_checked(hub: HubService, resolved: Counter[str]) -> None:
    there = on_hub(hub, DATA).url.replace("127.0.0.1", "bytes.test")
    with redirecting(there) as address:
        assert read(address) == DATA
        assert resolved["bytes.test"] == 1
        with pytest.raises(TransferRefused, match=r"'bytes\.test' has a private address, and 127\.0\.0\.1 is"):
            read(address)


@pytest.mark.parametrize("hops", [1, 2])
def test_every_redirect_is_held_to_the_network_of_the_first_server(hops: int) -> None:
    with (
        redirecting("http://169.254.169.254/latest") as last,
        redirecting(last) as first,
        pytest.raises(TransferRefused, match="link-local"),
    ):
        read(last if hops == 1 else first)


def test_headers_that_come_byte_by_byte_end_at_their_deadline() -> None:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nX: ")
            for _ in range(400):
                self.wfile.write(b"x")
                time.sleep(0.02)

    server = QuietServer(("127.0.0.1", 0), Handler)
    began = time.monotonic()
    with serving(server), pytest.raises(RetryableResponseError):
        read(f"http://127.0.0.1:{server.server_port}")
    assert time.monotonic() - began < 4
