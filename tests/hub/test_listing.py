"""Listing the files of a revision, and mapping every other response of the Hub to an error."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.errors import (
    HubRefused,
    HubUnavailable,
    ModelNotFound,
    PaddockError,
    RevisionNotFound,
    UnsafeName,
)
from paddock.model.artifact import RepositoryFile
from paddock.model.names import ModelName, Revision, Sha256
from tests.hub.conftest import STRANGER, TOKEN, client
from tests.support.fixed_response import fixed_response_server

MODEL = ModelName.parse("org/name")
WEIGHTS, CONFIG, CARD = b"GGUF" * 1000, b'{"model_type": "llama"}', b"---\nlicense: apache-2.0\n---\n# A model\n"
API = "/api/models/org/name*"


@pytest.fixture
def commit(hub: HubService) -> str:
    return hub.repository("org/name").commit(
        {"Q8_0/model.gguf": WEIGHTS, "config.json": CONFIG, "README.md": CARD, "empty.json": b""}
    )


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def test_a_listing_has_the_commit_and_every_file_with_its_size_and_digest(hub: HubService, commit: str) -> None:
    found = client(hub).listing(MODEL)
    assert (found.model, found.revision, found.licence) == (MODEL, commit, "apache-2.0")
    assert found.files == (
        RepositoryFile("Q8_0/model.gguf", 4000, Sha256(hashlib.sha256(WEIGHTS).hexdigest()), None),
        RepositoryFile("README.md", len(CARD), None, git_sha1(CARD)),
        RepositoryFile("config.json", len(CONFIG), None, git_sha1(CONFIG)),
        RepositoryFile("empty.json", 0, None, git_sha1(b"")),
    )


def test_a_listing_is_one_request(hub: HubService, commit: str) -> None:
    client(hub).listing(MODEL)
    assert hub.stats().requests == {"GET /api/models/org/name/revision/main": 1}


def test_creating_a_client_sends_no_request(hub: HubService) -> None:
    client(hub)
    assert hub.stats().total_requests == 0


def test_a_branch_a_tag_and_a_commit_resolve_to_their_commit(hub: HubService, commit: str) -> None:
    repository = hub.repository("org/name")
    repository.tag("v1.0")
    repository.branch("wip/next")
    second = repository.commit({"config.json": b"{}"}, branch="wip/next")
    api = client(hub)
    assert api.listing(MODEL, "v1.0").revision == commit
    assert api.listing(MODEL, commit).revision == commit
    assert api.listing(MODEL, "wip/next").revision == second
    assert api.listing(MODEL).revision == commit


@pytest.mark.parametrize(
    "card", [b"# no header", b"---\nlicense: [mit, other]\n---\n", b"---\ntags: [x]\n---\n"], ids=repr
)
def test_a_card_without_a_single_licence_gives_none(hub: HubService, card: bytes) -> None:
    hub.repository("org/name").commit({"README.md": card})
    assert client(hub).listing(MODEL).licence is None


def test_a_hostile_file_name_is_listed_as_data(hub: HubService) -> None:
    names = ["../../etc/passwd", "a\\b.json", "a\x1b[2J.json"]
    hub.repository("org/name").commit(dict.fromkeys(names, b"{}"))
    assert [file.path for file in client(hub).listing(MODEL).files] == sorted(names)


def test_an_empty_repository_is_an_empty_listing(hub: HubService) -> None:
    hub.repository("org/name").commit({})
    assert client(hub).listing(MODEL).files == ()


def test_an_unknown_repository_is_not_found(hub: HubService) -> None:
    hub.hub.grant(STRANGER)
    for token in (None, STRANGER):
        with pytest.raises(ModelNotFound, match=f"org/nothing is not on {hub.address}, or is private"):
            client(hub, token=token).listing(ModelName.parse("org/nothing"))


def test_a_private_repository_is_found_only_with_its_token(hub: HubService, commit: str) -> None:
    hub.repository("org/name", private=True)
    hub.hub.grant(TOKEN, "org/name")
    hub.hub.grant(STRANGER)
    assert client(hub, token=TOKEN).listing(MODEL).revision == commit
    for token in (None, STRANGER):
        with pytest.raises(ModelNotFound, match="HF_TOKEN"):
            client(hub, token=token).listing(MODEL)


def test_a_token_stored_by_a_login_is_used_if_none_is_set(hub: HubService, commit: str, stored_token: Any) -> None:
    hub.repository("org/name", private=True)
    hub.hub.grant(TOKEN, "org/name")
    stored_token.write_text(f"{TOKEN}\n")
    assert client(hub).listing(MODEL).revision == commit


def test_an_unknown_token_is_refused_and_not_shown(hub: HubService, commit: str) -> None:
    with pytest.raises(HubRefused, match="answered 401 for org/name: set HF_TOKEN") as caught:
        client(hub, token=TOKEN).listing(MODEL)
    assert TOKEN not in repr(caught.value)


@pytest.mark.parametrize("ref", ["nothing", "v9", "0" * 40, "refs/pr/7"])
def test_an_unknown_revision_is_not_found(hub: HubService, commit: str, ref: str) -> None:
    with pytest.raises(RevisionNotFound, match=f"org/name@{ref} is not on"):
        client(hub).listing(MODEL, ref)


@pytest.mark.parametrize("ref", ["", "../..", "a b", "x?y=1", "-h"], ids=repr)
def test_an_invalid_revision_is_not_requested(hub: HubService, commit: str, ref: str) -> None:
    with pytest.raises(UnsafeName):
        client(hub).listing(MODEL, ref)
    assert hub.stats().total_requests == 0


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_a_transient_error(hub: HubService, commit: str, status: int) -> None:
    hub.inject("status", API, where="hub", status=status)
    api = client(hub)
    with pytest.raises(HubUnavailable, match=f"answered {status} for org/name: try again later") as caught:
        api.listing(MODEL)
    assert caught.value.retry_after_s is None
    assert hub.stats().total_requests == 1, "this layer does not retry"
    assert api.listing(MODEL).revision == commit


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("9" * 400, 999999999.0), ("soon", None), ("-1", None), ("\u00b2", None), ("", None)],
    ids=lambda value: repr(value)[:12],
)
def test_retry_after_is_what_the_hub_asked_for(header: str, seconds: float | None) -> None:
    with (
        fixed_response_server(status=429, headers={"Retry-After": header}) as address,
        pytest.raises(HubUnavailable) as caught,
    ):
        client(address).listing(MODEL)
    assert caught.value.retry_after_s == seconds
    assert pickle.loads(pickle.dumps(caught.value)).retry_after_s == seconds


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 451])
def test_any_other_refusal_is_final(hub: HubService, commit: str, status: int) -> None:
    hub.inject("status", API, where="hub", status=status)
    with pytest.raises((HubRefused, ModelNotFound)) as caught:
        client(hub).listing(MODEL)
    assert "org/name" in caught.value.message
    assert caught.value.cure


def test_a_disabled_repository_is_reported_as_disabled(hub: HubService, commit: str) -> None:
    hub.inject(
        "status", API, where="hub", status=403, headers={"X-Error-Message": "Access to this resource is disabled."}
    )
    with pytest.raises(HubRefused, match=f"org/name is disabled on {hub.address}"):
        client(hub).listing(MODEL)


def test_a_page_of_a_captive_portal_is_a_transient_error(hub: HubService, commit: str) -> None:
    hub.inject("html", API, where="hub")
    api = client(hub)
    with pytest.raises(HubUnavailable, match=f"{hub.address} did not answer for org/name"):
        api.listing(MODEL)
    assert api.listing(MODEL).revision == commit


def test_a_loop_of_redirects_ends(hub: HubService, commit: str) -> None:
    path = "/api/models/org/name/revision/main"
    hub.inject("redirect", path, where="hub", location=path, times=None)
    with pytest.raises(HubUnavailable, match="redirect"):
        client(hub).listing(MODEL)


def test_a_redirect_to_another_host_does_not_send_the_token(hub: HubService, commit: str) -> None:
    hub.hub.grant(TOKEN)
    hub.inject("redirect", API, where="hub", location=f"{hub.bytes_address}/elsewhere")
    with pytest.raises(PaddockError):
        client(hub, token=TOKEN).listing(MODEL)
    assert hub.stats().requests["GET /elsewhere"] == 1
    assert hub.stats().leaked_tokens == 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@pytest.mark.parametrize("host", ["127.0.0.1", "hub.invalid"])
def test_a_hub_that_does_not_answer_is_a_transient_error(host: str) -> None:
    address = f"http://{host}:{free_port()}"
    with pytest.raises(HubUnavailable, match=f"{address} did not answer for org/name") as caught:
        client(address).listing(MODEL)
    assert "HF_ENDPOINT" in caught.value.cure


def test_an_offline_hub_is_not_contacted(hub: HubService, commit: str) -> None:
    api = client(hub, offline=True)
    file = RepositoryFile("config.json", 2, None, None)
    for call in (lambda: api.listing(MODEL), api.file(MODEL, Revision(commit), file).address):
        with pytest.raises(HubRefused, match="HF_HUB_OFFLINE is set: unset it"):
            call()
    assert hub.stats().total_requests == 0


GOOD: dict[str, Any] = {
    "id": "org/name",
    "sha": "c" * 40,
    "siblings": [
        {"rfilename": "config.json", "size": 2, "blobId": "d" * 40},
        {
            "rfilename": "m.gguf",
            "size": 4,
            "blobId": "e" * 40,
            "lfs": {"size": 4, "sha256": "a" * 64, "pointerSize": 130},
        },
    ],
}


def _info(**values: object) -> object:
    return {**GOOD, **values}


def _plain(**values: object) -> object:
    return _info(siblings=[{**GOOD["siblings"][0], **values}])


def _lfs(**values: object) -> object:
    return _info(siblings=[{**GOOD["siblings"][1], "lfs": {**GOOD["siblings"][1]["lfs"], **values}}])


WRONG: dict[str, object] = {
    "null": None,
    "a number": 7,
    "a string": "org/name",
    "a list": [],
    "an empty object": {},
    "no commit": _info(sha=None),
    "a commit that is a number": _info(sha=7),
    "a commit that is a path": _info(sha="../../../../../../../../../../../../etc/x"),
    "a branch for a commit": _info(sha="main"),
    "siblings that are a number": _info(siblings=7),
    "siblings that are strings": _info(siblings=["config.json"]),
    "a file without a name": _info(siblings=[{"size": 2}]),
    "a name that is a number": _plain(rfilename=7),
    "no size": _plain(size=None),
    "a size that is a string": _plain(size="2"),
    "a negative size": _plain(size=-1),
    "a size that is not an integer": _plain(size=1.5),
    "a size that is a boolean": _plain(size=True),
    "a git digest that is a path": _plain(blobId="../../../../etc/x"),
    "a git digest that is a number": _plain(blobId=7),
    "a git digest with a line after it": _plain(blobId="d" * 40 + "\n"),
    "a sha256 that is a path": _lfs(sha256="../../../../etc/x"),
    "a sha256 that is null": _lfs(sha256=None),
    "a sha256 in upper case": _lfs(sha256="A" * 64),
    "a negative LFS size": _lfs(size=-1),
    "LFS without a digest": _info(siblings=[{"rfilename": "m.gguf", "lfs": {"size": 4}}]),
    "LFS that is a string": _info(siblings=[{"rfilename": "m.gguf", "lfs": "x"}]),
    "a name with an escape and no size": _plain(rfilename="\x1b[2J", size=None),
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_json_that_is_not_a_listing_is_refused_with_a_printable_message(value: object) -> None:
    with fixed_response_server(json.dumps(value).encode()) as address, pytest.raises(HubRefused) as caught:
        client(address).listing(MODEL)
    assert caught.value.message.startswith(f"{address} did not respond as a Hub for org/name: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


ODD: dict[str, tuple[object, Callable[[Any], bool]]] = {
    "as it should be": (GOOD, lambda found: len(found.files) == 2),
    "no siblings": (_info(siblings=None), lambda found: found.files == ()),
    "no digest at all": (_plain(blobId=None), lambda found: found.files[0].git_sha1 is None),
    "a library that is not a string": (_info(library_name=["x"]), lambda found: found.library is None),
    "a card that is empty": (_info(cardData={}), lambda found: found.licence is None),
}


@pytest.mark.parametrize(("value", "holds"), ODD.values(), ids=ODD)
def test_json_without_its_optional_fields_is_a_listing(value: object, holds: Callable[[Any], bool]) -> None:
    with fixed_response_server(json.dumps(value).encode()) as address:
        assert holds(client(address).listing(MODEL))


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    with fixed_response_server(b"[" * 100_000) as address, pytest.raises(HubRefused):
        client(address).listing(MODEL)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b"<html></html>"], ids=repr)
def test_a_body_that_is_not_json_is_a_transient_error(body: bytes) -> None:
    with fixed_response_server(body) as address, pytest.raises(HubUnavailable):
        client(address).listing(MODEL)
