"""The address of a file, and which servers get the token."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import urllib3

from infra.local.demo import DEMO_TOKEN, GATED, UNAUTHORIZED_TOKEN
from infra.local.hub import HubService
from paddock.errors import (
    FileNotInRevision,
    HubRefused,
    HubUnavailable,
    ModelGated,
    ModelNotFound,
    PaddockError,
    RevisionNotFound,
    TransferRefused,
)
from paddock.hub import HubFile
from paddock.model.artifact import RepositoryFile
from paddock.model.names import ModelName, Revision
from paddock.transfer.fetch import fetch
from tests.hub.conftest import TOKEN, client
from tests.support.fixed_response import fixed_response_server

MODEL = ModelName.parse("org/name")
WEIGHTS, CONFIG = b"GGUF" * 1000, b'{"model_type": "llama"}'
COMMIT = Revision("c" * 40)
ANY = RepositoryFile("m.gguf", 4, None, None)


def file_of(service: HubService, path: str, *, token: str | None = None, model: ModelName = MODEL) -> HubFile:
    api = client(service, token=token)
    listing = api.listing(model)
    return api.file(model, listing.revision, next(file for file in listing.files if file.path == path))


@pytest.fixture
def commit(hub: HubService) -> str:
    hub.hub.grant(TOKEN)
    return hub.repository("org/name").commit({"dir/model.gguf": WEIGHTS, "config.json": CONFIG})


def test_the_address_of_a_large_file_is_signed_on_another_host_and_has_no_token(hub: HubService, commit: str) -> None:
    address = file_of(hub, "dir/model.gguf", token=TOKEN).address(renew=True)
    assert address.url.startswith(f"{hub.bytes_address}/")
    assert "authorization" not in {name.lower() for name in address.headers}
    assert urllib3.request("GET", address.url, headers=dict(address.headers)).data == WEIGHTS
    assert hub.stats().leaked_tokens == 0


def test_the_address_of_a_small_file_is_the_hubs_own_and_has_the_token(hub: HubService, commit: str) -> None:
    address = file_of(hub, "config.json", token=TOKEN).address()
    assert address.url.startswith(f"{hub.address}/")
    assert address.headers["Authorization"] == f"Bearer {TOKEN}"
    assert urllib3.request("GET", address.url, headers=dict(address.headers)).data == CONFIG


@pytest.mark.parametrize("path", ["config.json", "dir/model.gguf"])
def test_without_a_token_there_is_no_authorization_header(hub: HubService, commit: str, path: str) -> None:
    address = file_of(hub, path).address()
    assert set(address.headers) == {"User-Agent"}
    assert address.headers["User-Agent"].startswith("paddock/")


def test_no_repr_of_an_address_or_file_has_the_token_or_the_signature(hub: HubService, commit: str) -> None:
    for path in ("config.json", "dir/model.gguf"):
        file = file_of(hub, path, token=TOKEN)
        text = f"{file.address()!r} {file!r} {file.label} {vars(file)!r}"
        assert TOKEN not in text
        assert "Signature" not in text


def test_a_file_has_a_label_and_its_expected_size_and_digest(hub: HubService, commit: str) -> None:
    large, small = file_of(hub, "dir/model.gguf"), file_of(hub, "config.json")
    assert large.label == f"org/name@{commit[:8]}: dir/model.gguf"
    assert (large.expected.size, large.expected.sha256) == (4000, hashlib.sha256(WEIGHTS).hexdigest())
    assert (small.expected.sha256, small.expected.git_sha1) == (None, small.file.git_sha1)


def test_the_first_address_costs_no_request_and_a_renewed_one_has_the_bytes(hub: HubService, commit: str) -> None:
    file = file_of(hub, "dir/model.gguf", token=TOKEN)
    hub.reset_stats()
    first = file.address()
    assert file.address() is first
    assert hub.stats().total_requests == 0
    assert first.url == f"{hub.address}/org/name/resolve/{commit}/dir/model.gguf"
    assert first.headers["Authorization"] == f"Bearer {TOKEN}"
    assert first.commit == commit
    signed = file.address(renew=True)
    assert hub.stats().total_requests == 1
    hub.inject("expire", "org/name/*")
    assert urllib3.request("GET", signed.url).status == 403
    renewed = file.address(renew=True)
    assert renewed.url != signed.url
    assert urllib3.request("GET", renewed.url).data == WEIGHTS
    assert file.address() is renewed
    assert hub.stats().total_bytes_sent == len(WEIGHTS)


def test_a_file_of_another_commit_is_refused(tmp_path: Path) -> None:
    file = RepositoryFile("m.gguf", 4, None, None)
    for status, headers in ((206, {"Content-Range": "bytes 0-3/4"}), (302, {"Location": "/elsewhere"})):
        answer = {"X-Repo-Commit": "d" * 40, **headers}
        with (
            fixed_response_server(b"GGUF", status=status, headers=answer) as address,
            pytest.raises(TransferRefused, match=f"answered with commit '{'d' * 40}'"),
        ):
            fetch(client(address).file(MODEL, COMMIT, file), staging=tmp_path)


@pytest.mark.parametrize("path", ["config.json", "dir/model.gguf"])
def test_a_refused_file_has_the_error_of_the_hub(hub: HubService, path: str, tmp_path: Path) -> None:
    gated = ModelName.parse(GATED)
    hub.repository(GATED, gated=True).commit({"dir/model.gguf": WEIGHTS, "config.json": CONFIG})
    with pytest.raises(ModelGated, match="accept its terms"):
        fetch(file_of(hub, path, model=gated), staging=tmp_path)


def test_an_offline_client_gives_no_address() -> None:
    with pytest.raises(HubRefused, match="HF_HUB_OFFLINE is set"):
        client("http://127.0.0.1:9", offline=True).file(MODEL, COMMIT, ANY).address()


def test_a_name_with_special_characters_is_quoted_in_its_address(hub: HubService) -> None:
    name = "a b+c#d%41&é.json"
    hub.repository("org/name").commit({name: b"odd", "a bAc": b"another"})
    address = file_of(hub, name).address()
    assert urllib3.request("GET", address.url).data == b"odd"


def test_a_gated_model_is_listed_for_all_and_read_only_with_access(hub: HubService) -> None:
    gated = ModelName.parse(GATED)
    hub.repository(GATED, gated=True).commit({"m.gguf": WEIGHTS, "config.json": CONFIG})
    hub.hub.grant(DEMO_TOKEN, GATED)
    hub.hub.grant(UNAUTHORIZED_TOKEN)
    for path in ("m.gguf", "config.json"):
        assert file_of(hub, path, token=DEMO_TOKEN, model=gated).address().url
        for token in (None, UNAUTHORIZED_TOKEN):
            with pytest.raises(ModelGated, match="accept its terms") as caught:
                file_of(hub, path, token=token, model=gated).address(renew=True)
            assert "HF_TOKEN" in caught.value.cure
            assert UNAUTHORIZED_TOKEN not in str(caught.value)


def test_a_missing_file_revision_or_model_has_its_own_error(hub: HubService, commit: str) -> None:
    api = client(hub, token=TOKEN)
    revision = Revision(commit)
    with pytest.raises(FileNotInRevision, match=r"no\.gguf is not on"):
        api.locate(MODEL, revision, "no.gguf")
    with pytest.raises(RevisionNotFound, match="org/name@cccccccc: config"):
        api.locate(MODEL, COMMIT, "config.json")
    with pytest.raises(ModelNotFound, match="org/nothing@"):
        api.locate(ModelName.parse("org/nothing"), revision, "config.json")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_a_transient_error_with_its_retry_after(hub: HubService, commit: str, status: int) -> None:
    file = file_of(hub, "dir/model.gguf")
    hub.inject("status", "/org/name/resolve/*", where="hub", status=status, headers={"Retry-After": "5"})
    with pytest.raises(HubUnavailable) as caught:
        file.address(renew=True)
    assert caught.value.retry_after_s == 5
    assert file.address(renew=True).url


def test_a_response_for_another_commit_is_refused() -> None:
    headers = {"X-Repo-Commit": "d" * 40, "ETag": '"x"'}
    with (
        fixed_response_server(headers=headers) as address,
        pytest.raises(HubRefused, match=f"answered with commit '{'d' * 40}'"),
    ):
        client(address).locate(MODEL, COMMIT, "m.gguf")


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "javascript:alert(1)", "data:,x", "http:///x"],
)
def test_an_address_with_another_scheme_is_refused(location: str) -> None:
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"x"', "Location": location}
    with fixed_response_server(status=302, headers=headers) as address, pytest.raises((HubRefused, HubUnavailable)):
        client(address, token=TOKEN).locate(MODEL, COMMIT, "m.gguf")


@pytest.mark.parametrize("location", ["http://[x", "http://127.0.0.1:99999/x", "http://127.0.0.1:x/"])
def test_an_address_that_does_not_parse_is_a_paddock_error(location: str) -> None:
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"x"', "Location": location}
    with fixed_response_server(status=302, headers=headers) as address, pytest.raises(PaddockError):
        client(address, token=TOKEN).locate(MODEL, COMMIT, "m.gguf")


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://127.0.0.1:1/x",
        "https://127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "http://127.0.0.1:{port}@evil.example/",
    ],
    ids=["another port", "another scheme", "another host", "the same host as a user name"],
)
def test_the_token_is_sent_only_to_the_hubs_own_scheme_host_and_port(elsewhere: str) -> None:
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"x"'}
    with fixed_response_server(status=302, headers=headers) as address:
        headers["Location"] = elsewhere.format(port=address.rpartition(":")[2])
        found = client(address, token=TOKEN).locate(MODEL, COMMIT, "m.gguf")
    assert found.url == headers["Location"]
    assert "Authorization" not in found.headers
