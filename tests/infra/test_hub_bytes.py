"""How the local Hub serves bytes: redirects, signed URLs, ranges, counters, and leaked tokens."""

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
    # verify=False: there is no TLS, and loading the system's certificates takes 40 ms.
    with httpx.Client(base_url=hub.address, verify=False, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def signed(commit: str, client: httpx.Client) -> str:
    """A signed URL of the model's bytes."""
    return client.get("/org/name/resolve/main/model.gguf").headers["Location"]


def test_a_file_in_lfs_redirects_to_the_bytes_server(hub: HubService, commit: str, client: httpx.Client) -> None:
    for method in ("HEAD", "GET"):
        redirect = client.request(method, "/org/name/resolve/main/model.gguf")
        assert redirect.status_code == 302
        assert redirect.headers["X-Repo-Commit"] == commit
        assert redirect.headers["X-Linked-Size"] == str(len(DATA))
        location = redirect.headers["Location"]
        assert location.startswith(hub.bytes_address)
        response = client.request(method, location)
        assert (response.status_code, response.headers["Content-Length"]) == (200, str(len(DATA)))
        # No CDN's ETag is the file's sha256: only X-Linked-Etag is.
        assert response.headers["ETag"] != redirect.headers["X-Linked-Etag"]
    assert response.content == DATA


def test_a_plain_file_redirects_to_its_commit_on_the_same_server(commit: str, client: httpx.Client) -> None:
    redirect = client.get("/org/name/resolve/main/config.json")
    assert redirect.status_code == 307
    assert redirect.headers["Location"].startswith(f"/api/resolve-cache/models/org/name/{commit}/config.json?")
    response = client.get("/org/name/resolve/main/config.json", follow_redirects=True)
    assert (response.content, response.headers["X-Repo-Commit"]) == (b'{"a": 1}', commit)
    assert response.headers["ETag"] == redirect.headers["X-Linked-Etag"]
    assert client.get(response.url, headers={"If-None-Match": response.headers["ETag"]}).status_code == 304
    assert client.get("/org/name/resolve/main/empty.txt", follow_redirects=True).content == b""


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("header", "start", "stop"),
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
def test_a_range_gets_206(signed: str, client: httpx.Client, header: str, start: int, stop: int) -> None:
    response = client.get(signed, headers={"Range": header})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(stop - start)
    assert response.content == DATA[start:stop]


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "lines=1-2", "bytes=x-y"])
def test_several_or_invalid_ranges_get_the_whole_file(signed: str, client: httpx.Client, header: str) -> None:
    response = client.get(signed, headers={"Range": header})
    assert (response.status_code, len(response.content)) == (200, SIZE)


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=9999999-10"])
def test_a_range_past_the_end_gets_416_with_the_size(signed: str, client: httpx.Client, header: str) -> None:
    response = client.get(signed, headers={"Range": header})
    assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_if_range_gets_the_range_only_for_the_current_etag(signed: str, client: httpx.Client) -> None:
    etag = client.head(signed).headers["ETag"]
    assert client.get(signed, headers={"Range": "bytes=0-4", "If-Range": etag}).status_code == 206
    assert client.get(signed, headers={"Range": "bytes=0-4", "If-Range": '"another"'}).status_code == 200


def test_a_url_without_a_valid_signature_is_refused(signed: str, client: httpx.Client) -> None:
    address, _, query = signed.partition("?")
    for bad in (
        address,
        f"{signed}0",
        signed.replace("Nonce=", "Nonce=0"),
        f"{address}x?{query}",
        f"{address}?Expires=x",
    ):
        response = client.get(bad)
        assert response.status_code == 403
        assert "<Code>AccessDenied</Code>" in response.text


def test_a_signed_url_expires(tmp_path: Path) -> None:
    hub = LocalHub(tmp_path)
    hub.repository("org/name").commit({"model.gguf": DATA})
    with serve_hub(hub, signed_for_s=-1) as service, httpx.Client(verify=False, trust_env=False) as client:
        location = client.get(f"{service.address}/org/name/resolve/main/model.gguf").headers["Location"]
        assert client.get(location).status_code == 403


def test_a_token_sent_to_the_bytes_server_is_refused_and_counted(
    hub: HubService, commit: str, client: httpx.Client
) -> None:
    hub.hub.grant("token")
    headers = {"Authorization": "Bearer token"}
    address = "/org/name/resolve/main/model.gguf"
    assert (
        client.get(address, headers=headers, follow_redirects=True).content == DATA
    )  # httpx drops the token on a redirect to another host
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
    body = client.get("/_admin/stats").json()
    assert body["bytes_sent"] == stats.bytes_sent
    assert (body["total_bytes_sent"], body["total_requests"], body["leaked_tokens"]) == (1008, 4, 0)
    assert client.delete("/_admin/stats").status_code == 200
    assert hub.stats().total_requests == hub.stats().total_bytes_sent == 0


@pytest.mark.parametrize("query", ["limit=x", "cursor=x", "cursor=ww==", "cursor=bm8="])
def test_an_invalid_page_gets_400(commit: str, client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/models/org/name/tree/main?{query}").status_code == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"{", b'{"paths": 3}'])
def test_an_invalid_paths_info_body_gets_400(commit: str, client: httpx.Client, body: bytes) -> None:
    address = "/api/models/org/name/paths-info/main"
    assert client.post(address, content=body, headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(address, json={"paths": ["config.json"]}).json()[0]["size"] == 8


def test_an_unknown_path_gets_404(hub: HubService, client: httpx.Client) -> None:
    hub.repository("org/name").commit({"a": b"a"})
    for path in ("/", "/api/models", "/api/models/org/name/nothing", "/org/name/blob/main/a", "/_admin/nothing"):
        assert client.get(path).status_code == 404
