"""Each kind of injected fault, as a client sees it."""

import contextlib
import gzip
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.hub.faults import KINDS, Fault

DATA = os.urandom(200_000)
RESOLVE = "/org/name/resolve/main/model.gguf"


@pytest.fixture
def client(hub: HubService) -> Iterator[httpx.Client]:
    hub.repository("org/name").commit({"model.gguf": DATA, "config.json": b"{}"})
    # verify=False: there is no TLS, and loading the system's certificates takes 40 ms.
    with httpx.Client(base_url=hub.address, verify=False, trust_env=False, timeout=20, follow_redirects=True) as client:
        yield client


@pytest.fixture
def signed(client: httpx.Client) -> str:
    return client.get(RESOLVE, follow_redirects=False).headers["Location"]


def exchange(address: str) -> tuple[bytes, OSError | None]:
    """GET over a plain socket: all bytes until the connection ended, and the error that ended it."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as sock:
        sock.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        received = b""
        try:
            while piece := sock.recv(1 << 16):
                received += piece
        except OSError as error:
            return received, error
        return received, None


def body(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


def test_every_kind_of_fault_has_a_test_here() -> None:
    tested = {name.removeprefix("test_").split("_")[0] for name in globals() if name.startswith("test_")}
    assert KINDS.keys() <= tested


def test_status_is_any_status_with_its_headers(hub: HubService, client: httpx.Client) -> None:
    hub.inject("status", "org/name/*.gguf", status=429, headers={"Retry-After": "7"}, times=2)
    for expected in (429, 429, 200):
        response = client.get(RESOLVE)
        assert response.status_code == expected
        assert response.headers.get("Retry-After") == ("7" if expected == 429 else None)


def test_status_with_where_hub_affects_the_api(hub: HubService, client: httpx.Client) -> None:
    hub.inject("status", "/api/models/org/*", where="hub", status=500)
    assert client.get(RESOLVE).status_code == 200
    assert client.get("/api/models/org/name").status_code == 500
    assert client.get("/api/models/org/name").status_code == 200


def test_html_is_a_page_with_200(hub: HubService, client: httpx.Client) -> None:
    hub.inject("html", "*.gguf")
    response = client.get(RESOLVE)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert response.text.startswith("<!DOCTYPE html>")


def test_redirect_goes_elsewhere_or_in_a_loop(hub: HubService, client: httpx.Client) -> None:
    hub.inject("redirect", location="http://127.0.0.1:9/elsewhere")
    response = client.get(RESOLVE, follow_redirects=False)
    response = client.get(response.headers["Location"], follow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (302, "http://127.0.0.1:9/elsewhere")
    hub.inject("redirect", RESOLVE, where="hub", location=RESOLVE, times=None)
    with pytest.raises(httpx.TooManyRedirects):
        client.get(RESOLVE)


def test_expire_invalidates_one_signed_url_permanently(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("expire", "*.gguf")
    assert [client.get(signed).status_code for _ in range(3)] == [403, 403, 403]
    assert client.get(RESOLVE).content == DATA


def test_reset_is_a_tcp_reset_after_some_bytes(hub: HubService, signed: str) -> None:
    hub.inject("reset", after_bytes=50_000)
    received, error = exchange(signed)
    assert isinstance(error, ConnectionResetError)
    assert len(body(received)) <= 50_000
    assert DATA.startswith(body(received))
    assert hub.stats().bytes_sent == {"org/name/model.gguf": 50_000}


def test_short_is_an_orderly_end_before_the_promised_length(hub: HubService, signed: str) -> None:
    hub.inject("short", after_bytes=50_000)
    received, error = exchange(signed)
    assert error is None
    assert b"content-length: 200000" in received
    assert body(received) == DATA[:50_000]


def test_stall_sends_some_bytes_and_then_nothing(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("stall", after_bytes=50_000)
    received = b""
    with client.stream("GET", signed, timeout=1) as response:
        pieces = response.iter_raw()
        while len(received) < 50_000:
            received += next(pieces)
        with pytest.raises(httpx.ReadTimeout):
            next(pieces)
    assert received == DATA[:50_000]
    assert client.get(signed).content == DATA


def test_stall_affects_head_requests_too(hub: HubService, client: httpx.Client) -> None:
    hub.inject("stall", RESOLVE, where="hub")
    with pytest.raises(httpx.ReadTimeout):
        client.head(RESOLVE, timeout=1)


def test_slow_limits_the_rate(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("slow", bytes_per_s=1_000_000)
    start = time.monotonic()
    assert client.get(signed).content == DATA
    assert time.monotonic() - start >= 0.2


def test_flip_changes_one_bit_of_the_response_that_contains_it(
    hub: HubService, client: httpx.Client, signed: str
) -> None:
    hub.inject("flip", offset=150_000, bit=3)
    assert client.get(signed, headers={"Range": "bytes=0-149999"}).content == DATA[:150_000]
    response = client.get(signed, headers={"Range": "bytes=149999-150001"}).content
    assert [left ^ right for left, right in zip(response, DATA[149_999:150_002], strict=True)] == [0, 8, 0]
    assert client.get(signed).content == DATA


def test_full_is_200_for_a_range(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("full")
    response = client.get(signed, headers={"Range": "bytes=100-199"})
    assert (response.status_code, response.content) == (200, DATA)
    assert "Content-Range" not in response.headers


def test_shorten_is_the_first_part_of_the_range(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("shorten", after_bytes=30)
    response = client.get(signed, headers={"Range": "bytes=100-199"})
    assert (response.status_code, response.headers["Content-Range"]) == (206, f"bytes 100-129/{len(DATA)}")
    assert response.content == DATA[100:130]


def test_shift_is_another_range_with_its_content_range(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("shift", offset=50)
    response = client.get(signed, headers={"Range": "bytes=100-199"})
    assert (response.status_code, response.headers["Content-Range"]) == (206, f"bytes 150-249/{len(DATA)}")
    assert response.content == DATA[150:250]


def test_etag_changes_once(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("etag")
    first, second = client.get(signed), client.get(signed)
    assert first.headers["ETag"] != second.headers["ETag"]
    hub.inject("etag", RESOLVE, where="hub")
    linked = [client.head(RESOLVE, follow_redirects=False).headers["X-Linked-Etag"] for _ in range(2)]
    assert linked[0] != linked[1]
    assert len(linked[0]) == len(linked[1])


def test_unsized_has_no_length(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("unsized")
    response = client.get(signed)
    assert response.content == DATA
    assert "Content-Length" not in response.headers


def test_endless_goes_on_after_the_file(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("endless")
    with client.stream("GET", signed) as response:
        received = b""
        for piece in response.iter_raw():
            received += piece
            if len(received) > 3_000_000:
                break
    assert received.startswith(DATA)


def test_gzip_compresses_whatever_the_client_accepts(hub: HubService, client: httpx.Client, signed: str) -> None:
    hub.inject("gzip")
    with client.stream("GET", signed, headers={"Accept-Encoding": "identity"}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(raw) == DATA


def test_faults_apply_in_order_to_matching_files(hub: HubService, client: httpx.Client) -> None:
    hub.inject("status", "org/name/config.json", status=500)
    hub.inject("status", "org/name/*", status=501)
    hub.inject("status", "org/name/*", status=502)
    assert client.get(RESOLVE).status_code == 501
    assert client.get("/org/name/resolve/main/config.json").status_code == 500
    assert [fault.status for fault in hub.pending_faults()] == [502]
    hub.clear_faults()
    assert client.get(RESOLVE).status_code == 200


def test_faults_can_be_injected_over_http(hub: HubService, client: httpx.Client) -> None:
    fault = {"kind": "status", "path": "org/name/*", "status": 418, "times": 2}
    assert client.post("/_admin/faults", json=fault).status_code == 200
    assert hub.pending_faults() == [Fault("status", "org/name/*", status=418, times=2)]
    assert client.get("/_admin/faults").json()[0]["status"] == 418
    assert client.delete("/_admin/faults").status_code == 200
    assert hub.pending_faults() == []


@pytest.mark.parametrize(
    "fault",
    [{"kind": "melt"}, {"kind": "flip", "where": "moon"}, {"kind": "flip", "ofset": 3}, {}, [], "flip"],
    ids=str,
)
def test_an_invalid_fault_is_refused_with_a_reason(hub: HubService, client: httpx.Client, fault: object) -> None:
    response = client.post("/_admin/faults", json=fault)
    assert response.status_code == 400
    assert response.json()["error"].startswith("invalid fault: ")
    assert hub.pending_faults() == []


@pytest.mark.timeout(60)  # a stall lasts until the client disconnects, and this one does not
def test_a_service_that_stalls_still_stops_at_once(tmp_path: Path) -> None:
    hub = LocalHub(tmp_path)
    hub.repository("org/name").commit({"model.gguf": DATA})
    with (
        contextlib.ExitStack() as serving,
        httpx.Client(verify=False, trust_env=False, follow_redirects=True) as client,
    ):
        service = serving.enter_context(serve_hub(hub))
        service.inject("stall", after_bytes=10)
        with client.stream("GET", f"{service.address}{RESOLVE}") as response:
            pieces = response.iter_raw()
            assert next(pieces) == DATA[:10]
            serving.close()
            with pytest.raises(httpx.TransportError):
                next(pieces)
