"""Requests to a server that takes long to answer each: few, long, in parallel, and none of them twice."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.hub import Hub
from paddock.model.names import ModelName
from paddock.settings import Settings
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.transfer.request_size import RequestSize
from tests.support.mirror import mirror_of
from tests.transfer.remote import KIB, MIB, Remote, content, expected, on_hub

MODEL = ModelName.parse("org/name")
SEGMENT = 64 * MIB


@pytest.mark.parametrize(
    ("request_s", "left", "connections", "span", "window"),
    [
        (0.0, 1000 * MIB, 16, 4 * MIB, SEGMENT),
        (0.19, 1000 * MIB, 16, 4 * MIB, SEGMENT),
        (0.2, 1000 * MIB, 16, 8 * MIB, 2 * SEGMENT),
        (0.4, 10_000 * MIB, 16, 16 * MIB, 4 * SEGMENT),
        (60.0, 10_000 * MIB, 16, 16 * MIB, 4 * SEGMENT),
        (0.4, 128 * MIB, 16, 8 * MIB, 2 * SEGMENT),
        (0.4, 1 * MIB, 16, 4 * MIB, SEGMENT),
        (0.4, 10_000 * MIB, 4, 16 * MIB, SEGMENT),
        (0.4, 0, 1, 4 * MIB, SEGMENT),
    ],
)
def test_spans_grow_with_the_time_of_a_request_and_divide_the_rest_of_the_file(
    request_s: float, left: int, connections: int, span: int, window: int
) -> None:
    size = RequestSize(4 * MIB, SEGMENT, max_window_bytes=4 * SEGMENT)
    assert (size.bytes, size.window_bytes) == (4 * MIB, SEGMENT)
    size.measured(request_s, left_bytes=left, connections=connections)
    assert (size.bytes, size.window_bytes) == (span, window)


def test_the_fastest_request_counts() -> None:
    size = RequestSize(4 * MIB, SEGMENT, max_window_bytes=4 * SEGMENT)
    for request_s, span in ((0.4, 16 * MIB), (0.2, 8 * MIB), (30.0, 8 * MIB), (0.01, 4 * MIB), (30.0, 4 * MIB)):
        size.measured(request_s, left_bytes=10_000 * MIB, connections=16)
        assert size.bytes == span


def test_a_window_that_may_not_grow_stays() -> None:
    size = RequestSize(16 * MIB, 256 * MIB, max_window_bytes=256 * MIB)
    size.measured(10.0, left_bytes=10_000 * MIB, connections=16)
    assert (size.bytes, size.window_bytes) == (16 * MIB, 256 * MIB)


def test_the_ranges_behind_the_first_response_are_requested_at_once(tmp_path: Path) -> None:
    data = content(1 * MIB)
    others = threading.Barrier(3, timeout=10)
    numbers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            numbers.append(1)
            if len(numbers) == 1:
                started.wait(10)
            else:
                others.wait()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
            assert match is not None
            block = data[int(match[1]) : int(match[2]) + 1]
            self.send_response_only(206)
            self.send_header("Content-Range", f"bytes {match[1]}-{match[2]}/{len(data)}")
            self.send_header("Content-Length", str(len(block)))
            self.end_headers()
            self.wfile.write(block)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            pass

    started = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        threading.Timer(0.05, started.set).start()  # the other workers wait for the first response by then
        try:
            source = Remote(f"http://127.0.0.1:{server.server_port}/x", expected(data))
            # A window that may not grow: all workers take their span before the first response.
            options = Options(connections=4, segment_bytes=256 * KIB, span_bytes=256 * KIB, stall_s=10)
            staged = fetch(source, staging=tmp_path, options=options)
        finally:
            server.shutdown()
            thread.join()
    assert staged is not None
    assert staged.sha256 == hashlib.sha256(data).hexdigest()
    assert len(numbers) == 4


def test_a_slow_server_gets_few_long_requests_over_few_connections(hub: HubService, tmp_path: Path) -> None:
    data = content(5 * MIB)
    source = on_hub(hub, data)
    options = Options(connections=4, segment_bytes=MIB)  # 20 requests of 256 KiB
    with mirror_of(hub.address, delay_s=0.25) as mirror:
        staged = fetch(
            replace(source, url=source.url.replace(hub.address, mirror.address)), staging=tmp_path, options=options
        )
        assert staged is not None
        assert staged.path.read_bytes() == data
        assert staged.transferred_bytes == len(data)
        assert len(mirror.requests) <= 10
        assert mirror.connections <= 4


def test_a_file_of_the_hub_costs_one_request(hub: HubService, tmp_path: Path) -> None:
    commit = hub.repository("org/name").commit({"config.json": b"{}", "model.gguf": content(100 * KIB)})
    with mirror_of(hub.address, delay_s=0) as mirror:
        client = Hub(Settings(hub_endpoint=mirror.address))
        listing = client.listing(MODEL)
        for file in listing.files:
            assert fetch(client.file(MODEL, listing.revision, file), staging=tmp_path) is not None
    assert [f"{request.method} {request.path.partition('?')[0]}" for request in mirror.requests] == [
        "GET /api/models/org/name/revision/main",
        f"GET /org/name/resolve/{commit}/config.json",
        f"GET /org/name/resolve/{commit}/model.gguf",
    ]
