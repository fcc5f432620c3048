"""How the local Hub sends bytes: redirects, signed addresses, ranges, counts, and where a token may go."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from infra.local.hub import HubService, LocalHub, serve_hub

DATA = os.urandom(3_000_000)  # more than two pieces
FILE = "org/name/model.gguf"


@pytest.fixture
def commit(hub: HubService) -> str:
    return hub.repository("org/name").commit({"model.gguf": DATA, "config.json": b'{"a": 1}', "empty.txt": b""})


@pytest.fixture
def client(hub: HubService) -> Iterator[httpx.Client]:
    # There is no TLS here, and reading the system's certificates for it takes 40 ms.
    with httpx.Client(base_url=hub.address, verify=False, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def signed(commit: str, client: httpx.Client) -> str:
    """A signed address of the model's bytes."""
    return client.get("/org/name/resolve/main/model.gguf").headers["Location"]


def test_a_file_in_lfs_is_redirected_to_the_address_for_bytes(
    hub: HubService, commit: str, client: httpx.Client
) -> None:
    for method in ("HEAD", "GET"):
        found = client.request(method, "/org/name/resolve/main/model.gguf")
        assert found.status_code == 302
        assert found.headers["X-Repo-Commit"] == commit
        assert found.headers["X-Linked-Size"] == str(len(DATA))
        location = found.headers["Location"]
        assert location.startswith(hub.bytes_address)
        given = client.request(method, location)
        assert (given.status_code, given.headers["Content-Length"]) == (200, str(len(DATA)))
        # No CDN's ETag is the file's sha256: only X-Linked-Etag is.
        assert given.headers["ETag"] != found.headers["X-Linked-Etag"]
    assert given.content == DATA


def test_a_plain_file_is_redirected_to_its_commit_on_the_same_address(commit: str, client: httpx.Client) -> None:
    found = client.get("/org/name/resolve/main/config.json")
    assert found.status_code == 307
    assert found.headers["Location"].startswith(f"/api/resolve-cache/models/org/name/{commit}/config.json?")
    given = client.get("/org/name/resolve/main/config.json", follow_redirects=True)
    assert (given.content, given.headers["X-Repo-Commit"]) == (b'{"a": 1}', commit)
    assert given.headers["ETag"] == found.headers["X-Linked-Etag"]
    assert client.get(given.url, headers={"If-None-Match": given.headers["ETag"]}).status_code == 304
    assert client.get("/org/name/resolve/main/empty.txt", follow_redirects=True).content == b""


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1048570-1048590", 1_048_570, 1_048_591),
        ("bytes=2999990-", 2_999_990, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=-99999999", 0, SIZE),
        ("bytes=2999999-9999999", 2_999_999, SIZE),
    ],
)
def test_a_range_is_answered_with_206(signed: str, client: httpx.Client, wanted: str, start: int, stop: int) -> None:
    given = client.get(signed, headers={"Range": wanted})
    assert given.status_code == 206
    assert given.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert given.headers["Content-Length"] == str(stop - start)
    assert given.content == DATA[start:stop]


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "lines=1-2", "bytes=x-y"])
def test_several_ranges_or_none_are_answered_with_the_whole_file(
    signed: str, client: httpx.Client, wanted: str
) -> None:
    given = client.get(signed, headers={"Range": wanted})
    assert (given.status_code, len(given.content)) == (200, SIZE)


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=9999999-10"])
def test_a_range_beyond_the_end_is_416_and_says_the_size(signed: str, client: httpx.Client, wanted: str) -> None:
    given = client.get(signed, headers={"Range": wanted})
    assert (given.status_code, given.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_if_range_gives_the_range_only_while_the_etag_is_the_same(signed: str, client: httpx.Client) -> None:
    etag = client.head(signed).headers["ETag"]
    assert client.get(signed, headers={"Range": "bytes=0-4", "If-Range": etag}).status_code == 206
    assert client.get(signed, headers={"Range": "bytes=0-4", "If-Range": '"another"'}).status_code == 200


def test_an_address_without_a_good_signature_is_refused(signed: str, client: httpx.Client) -> None:
    address, _, query = signed.partition("?")
    for bad in (
        address,
        f"{signed}0",
        signed.replace("Nonce=", "Nonce=0"),
        f"{address}x?{query}",
        f"{address}?Expires=x",
    ):
        given = client.get(bad)
        assert given.status_code == 403
        assert "<Code>AccessDenied</Code>" in given.text


def test_a_signed_address_expires(tmp_path: Path) -> None:
    hub = LocalHub(tmp_path)
    hub.repository("org/name").commit({"model.gguf": DATA})
    with serve_hub(hub, signed_for_s=-1) as service, httpx.Client(verify=False, trust_env=False) as client:
        location = client.get(f"{service.address}/org/name/resolve/main/model.gguf").headers["Location"]
        assert client.get(location).status_code == 403


def test_a_token_that_reaches_the_address_for_bytes_is_refused_and_counted(
    hub: HubService, commit: str, client: httpx.Client
) -> None:
    hub.hub.grant("token")
    headers = {"Authorization": "Bearer token"}
    address = "/org/name/resolve/main/model.gguf"
    assert client.get(address, headers=headers, follow_redirects=True).content == DATA  # httpx drops it by itself
    assert hub.stats().leaked_tokens == 0
    location = client.get(address, headers=headers).headers["Location"]
    assert client.get(location, headers=headers).status_code == 400
    assert hub.stats().leaked_tokens == 1


def test_requests_and_bytes_are_counted_and_can_be_reset(hub: HubService, signed: str, client: httpx.Client) -> None:
    hub.reset_stats()
    client.get(signed, headers={"Range": "bytes=0-999"})
    client.head(signed)
    client.get("/org/name/resolve/main/config.json", follow_redirects=True)
    stats = hub.stats()
    assert stats.bytes_sent == {FILE: 1000, "org/name/config.json": 8}
    assert stats.requests[f"GET {urlsplit(signed).path}"] == 1
    assert stats.total_requests == 4
    told = client.get("/_admin/stats").json()
    assert told["bytes_sent"] == stats.bytes_sent
    assert (told["total_bytes_sent"], told["total_requests"], told["leaked_tokens"]) == (1008, 4, 0)
    assert client.delete("/_admin/stats").status_code == 200
    assert hub.stats().total_requests == hub.stats().total_bytes_sent == 0


@pytest.mark.parametrize("query", ["limit=x", "cursor=x", "cursor=ww==", "cursor=bm8="])
def test_a_page_that_cannot_be_is_400(commit: str, client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/models/org/name/tree/main?{query}").status_code == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"{", b'{"paths": 3}'])
def test_a_question_about_paths_that_is_none_is_400(commit: str, client: httpx.Client, body: bytes) -> None:
    address = "/api/models/org/name/paths-info/main"
    assert client.post(address, content=body, headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(address, json={"paths": ["config.json"]}).json()[0]["size"] == 8


def test_an_unknown_address_is_404(hub: HubService, client: httpx.Client) -> None:
    hub.repository("org/name").commit({"a": b"a"})
    for path in ("/", "/api/models", "/api/models/org/name/nothing", "/org/name/blob/main/a", "/_admin/nothing"):
        assert client.get(path).status_code == 404
