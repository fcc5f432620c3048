"""S3 servers that lack a feature: what Paddock does without it, and what it says."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.errors import StoreRefused, StoreUnavailable
from paddock.model.names import Sha256
from paddock.store.protocol import HeldLease
from paddock.store.remote.download_lease import ObjectLease
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.support.fixed_response import fixed_response_server
from tests.support.limited_s3 import ENVIRONMENT, Lack, LimitedS3, limited_s3
from tests.support.stores import MODEL, SEGMENT_BYTES, A, S3Store, id_of, manifest_of, publish, put_blobs

BLOB = Sha256("a" * 64)
CONTENT = bytes(range(256)) * 1024
WORKING: list[Lack] = [
    "etag",
    "length",
    "last-modified",
    "status-206",
    "ranges",
    "conditions",
    "if-match",
    "accepting-conditions",
    "checksums",
    "deletion",
]
LEASED = [lack for lack in WORKING if lack not in {"status-206", "ranges", "checksums"}]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], S3Store]:
    """Make the store at an endpoint, as a process does from its environment."""

    def use(endpoint: str) -> S3Store:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        return S3Store(f"s3://models/{secrets.token_hex(4)}")

    return use


@pytest.mark.parametrize("lack", WORKING)
def test_a_snapshot_is_stored_promoted_and_fetched_without(
    use: Callable[[str], S3Store], tmp_path: Path, lack: Lack
) -> None:
    with limited_s3(lack) as server:
        store = use(server.endpoint)
        manifest = publish(store, A, {"m.gguf": CONTENT, "empty.json": b""}, tmp_path)
        store.promote([manifest.id], default=manifest.id)
        assert store.snapshots() == [manifest]
        assert store.promoted(MODEL).default_id == manifest.id
        file = next(file for file in manifest.files if file.size)
        assert store.has_blob(file.sha256, file.size)
        assert not store.has_blob(file.sha256, file.size + 1)
        options = Options(segment_bytes=SEGMENT_BYTES, span_bytes=10_000)
        staged = fetch(store.source(file), staging=tmp_path / "staging", options=options)
        assert staged is not None
        assert staged.path.read_bytes() == CONTENT
        staged.discard()


@pytest.mark.parametrize("lack", LEASED)
def test_a_lease_is_held_renewed_and_taken_again_without(
    use: Callable[[str], S3Store], caplog: pytest.LogCaptureFixture, lack: Lack
) -> None:
    with limited_s3(lack) as server, caplog.at_level(logging.WARNING, logger="paddock"):
        store = use(server.endpoint)
        for _ in range(2):
            lease = store.take_lease(BLOB, lease_s=60)
            assert isinstance(lease, ObjectLease)
            lease.set_progress(7)
            with lease.held(lease_s=60):
                assert lease.write(lease._tag)
                other = store.take_lease(BLOB, lease_s=60)
                assert isinstance(other, HeldLease)
                assert (other.done_bytes, other.is_expired) == (7, False)
    warnings = [record.getMessage() for record in caplog.records if "condition" in record.getMessage()]
    assert len(warnings) == (1 if lack in {"conditions", "if-match", "accepting-conditions"} else 0)


@pytest.mark.parametrize("lack", ["leases-404", "leases-412"])
def test_a_refused_lease_is_an_error_of_the_store(use: Callable[[str], S3Store], lack: Lack) -> None:
    with limited_s3(lack) as server, pytest.raises(StoreRefused, match=lack[-3:]):
        use(server.endpoint).take_lease(BLOB, lease_s=60)


def test_a_lease_that_was_not_stored_is_not_held(use: Callable[[str], S3Store]) -> None:
    with limited_s3("storing") as server:
        assert use(server.endpoint).take_lease(BLOB, lease_s=60) is None


def test_conditions_are_tried_once(use: Callable[[str], S3Store]) -> None:
    with limited_s3() as server:
        store = use(server.endpoint)
        for digit in "abc":
            assert isinstance(store.take_lease(Sha256(digit * 64), lease_s=60), ObjectLease)
        tried = [key for method, key in server.requests if method == "PUT" and "conditions" in key]
        assert len(tried) == 4
        assert not server.contents("conditions")


def test_refused_checksums_are_left_out_from_the_second_request_on(
    use: Callable[[str], S3Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = {f"{number}.gguf": bytes([number]) * 10 for number in range(3)}
    with limited_s3("checksums") as server, caplog.at_level(logging.WARNING, logger="paddock"):
        put_blobs(use(server.endpoint), manifest_of(A, contents), contents, tmp_path)
        assert sorted(server.contents("/blobs/")) == sorted(contents.values())
        assert [method for method, _ in server.requests].count("PUT") == 4
    assert caplog.text.count("refuses checksum headers") == 1


def test_parts_are_sent_to_a_server_without_checksums_and_tags(use: Callable[[str], S3Store], tmp_path: Path) -> None:
    content = CONTENT * 40  # two parts
    with limited_s3("checksums", "etag") as server:
        store = use(server.endpoint)
        manifest = manifest_of(A, {"m.gguf": content}, segment_bytes=SEGMENT_BYTES)
        put_blobs(store, manifest, {"m.gguf": content}, tmp_path)
        assert server.contents("/blobs/") == [content]


PAGE = b"<!DOCTYPE html>\n<html><body>Console</body></html>"
OTHER_ANSWERS = [
    pytest.param(200, PAGE, "a web page", id="a web page for each address"),
    pytest.param(404, PAGE, "a web page", id="a web server without such a page"),
    pytest.param(403, b'<?xml version="1.0"?><html xmlns="x"><body/></html>', "a web page", id="XHTML"),
    pytest.param(404, b'{"error": "no route"}', "JSON", id="another API"),
    pytest.param(200, b'{"ok": true}', "JSON", id="an API that accepts all"),
    pytest.param(404, b"404 page not found\n", "not the XML of S3", id="plain text"),
    pytest.param(200, b"<rss/>", "not the XML of S3", id="other XML"),
    pytest.param(200, b"", "empty", id="an empty answer"),
    pytest.param(
        200,
        b"<ListBucketResult><Contents><Key>k</Key><Size>many</Size></Contents></ListBucketResult>",
        "cannot be parsed",
        id="a size that is no number",
    ),
    pytest.param(200, b"<!doctype html><meta charset=utf-8><p>Console", "a web page", id="a page that is no XML"),
]


@pytest.mark.parametrize(("status", "body", "words"), OTHER_ANSWERS)
def test_what_is_no_s3_answer_is_refused_and_names_the_setting(
    use: Callable[[str], S3Store], status: int, body: bytes, words: str
) -> None:
    with fixed_response_server(body, status=status) as endpoint:
        store = use(endpoint)
        for request in (store.check, lambda: store.ids(MODEL), store.snapshots):
            with pytest.raises(StoreRefused, match=words) as caught:
                request()
            assert "AWS_ENDPOINT_URL" in caught.value.cure
            assert "PADDOCK_S3_URI" in caught.value.cure


def test_a_page_of_a_gateway_that_cannot_reach_s3_is_no_refusal(use: Callable[[str], S3Store]) -> None:
    with fixed_response_server(PAGE, status=502) as endpoint, pytest.raises(StoreUnavailable):
        use(endpoint).check()


def test_the_error_of_a_missing_object_may_have_a_namespace(use: Callable[[str], S3Store]) -> None:
    error = b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>NoSuchKey</Code></Error>'
    with fixed_response_server(error, status=404) as endpoint:
        assert use(endpoint).snapshot(id_of(A)) is None


def test_a_server_that_lacks_nothing_is_written_to_with_conditions(
    use: Callable[[str], S3Store], tmp_path: Path
) -> None:
    server: LimitedS3
    with limited_s3() as server:
        store = use(server.endpoint)
        publish(store, A, {"m.gguf": b"a"}, tmp_path)
        store.promote([id_of(A)], default=id_of(A))
        assert [key for method, key in server.requests if method == "PUT" and "/refs/" in key] == [
            f"{store.label.split('/', 3)[3]}/refs/org--name.json"
        ]
