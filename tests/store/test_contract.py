"""What holds for every store: the same tests over the volume and over a real S3 server."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, UnsafeName
from paddock.model.names import ModelName, Revision, Sha256
from paddock.store.s3 import S3Store
from paddock.store.volume import Volume
from tests.support.stores import MODEL, A, B, C, manifest_of, publish, put_blobs

Either = Volume | S3Store


def spoil(store: Either, revision: Revision, text: bytes) -> None:
    """Write a manifest behind the store's back."""
    if isinstance(store, Volume):
        path = store.snapshot_path(MODEL, revision) / "manifest.json"
        path.unlink()
        path.write_bytes(text)
    else:
        key = f"{store.label.split('/', 3)[3]}/snapshots/{MODEL.slug}/{revision}.json"
        store._client().put_object(Bucket=store.bucket, Key=key, Body=text)


def test_an_empty_store_has_nothing(store: Either) -> None:
    assert not store.has_blob(Sha256("0" * 64), 1)
    assert store.snapshot(MODEL, A) is None
    assert store.snapshots() == store.snapshots(MODEL) == []
    assert store.promoted(MODEL) is None
    assert store.read_report(MODEL, A, "audit.json") is None


def test_a_blob_is_there_only_with_its_size(store: Either, scratch: Path) -> None:
    manifest = publish(store, A, {"model.gguf": b"12345"}, scratch)
    digest = manifest.files[0].sha256
    assert store.has_blob(digest, 5)
    assert not store.has_blob(digest, 4)


def test_what_was_published_is_read_back(store: Either, scratch: Path) -> None:
    contents = {"model.gguf": b"x" * 100_000, "deep/er/ünïcode 模型.json": b"{}", "empty.json": b""}
    manifest = publish(store, A, contents, scratch)
    assert store.snapshot(MODEL, A) == manifest
    assert store.snapshots() == [manifest]


def test_a_snapshot_without_one_of_its_blobs_is_not_published(store: Either, scratch: Path) -> None:
    manifest = manifest_of(A, {"a.gguf": b"a", "b.gguf": b"b"})
    put_blobs(store, manifest_of(A, {"a.gguf": b"a"}), {"a.gguf": b"a"}, scratch)
    with pytest.raises(BlobMissing, match=r"org/name@aaaaaaaa.*blob of b\.gguf"):
        store.publish(manifest)
    assert store.snapshot(MODEL, A) is None
    assert store.snapshots() == []


def test_publishing_the_same_again_keeps_the_first(store: Either, scratch: Path) -> None:
    first = publish(store, A, {"model.gguf": b"same"}, scratch, age_s=0)
    publish(store, A, {"model.gguf": b"same"}, scratch, age_s=60)
    assert store.snapshot(MODEL, A) == first


def test_another_choice_of_the_same_revision_takes_its_place(store: Either, scratch: Path) -> None:
    old = publish(store, A, {"q8.gguf": b"eight", "config.json": b"{}"}, scratch)
    new = publish(store, A, {"q4.gguf": b"four", "config.json": b"{}"}, scratch, age_s=60)
    assert store.snapshot(MODEL, A) == new
    assert store.snapshots() == [new]
    assert all(store.has_blob(file.sha256, file.size) for file in old.files), "going back must cost no download"


def test_a_choice_that_lacks_a_blob_leaves_the_old_one(store: Either, scratch: Path) -> None:
    old = publish(store, A, {"q8.gguf": b"eight"}, scratch)
    with pytest.raises(BlobMissing):
        store.publish(manifest_of(A, {"q4.gguf": b"four"}))
    assert store.snapshot(MODEL, A) == old


def test_snapshots_are_sorted_by_repository_and_age(store: Either, scratch: Path) -> None:
    other = ModelName.parse("another/model")
    late = publish(store, A, {"m.gguf": b"1"}, scratch, age_s=60)
    early = publish(store, B, {"m.gguf": b"2"}, scratch, age_s=0)
    elsewhere = publish(store, C, {"m.gguf": b"3"}, scratch, model=other, age_s=30)
    assert store.snapshots() == [elsewhere, early, late]
    assert store.snapshots(MODEL) == [early, late]


def test_a_file_with_the_manifest_s_own_name_is_refused(store: Either) -> None:
    with pytest.raises(UnsafeName, match=r"Manifest\.json"):
        store.publish(manifest_of(A, {"Manifest.json": b"{}"}))


def test_promoting_returns_what_was_promoted_before(store: Either, scratch: Path) -> None:
    publish(store, A, {"m.gguf": b"a"}, scratch)
    publish(store, B, {"m.gguf": b"b"}, scratch)
    assert store.promote(MODEL, A, reason="first") is None
    assert store.promoted(MODEL) == A
    assert store.promote(MODEL, B, reason="better") == A
    assert store.promote(MODEL, B, reason="again") == B
    assert store.promoted(MODEL) == B


def test_what_is_not_published_is_not_promoted(store: Either, scratch: Path) -> None:
    publish(store, A, {"m.gguf": b"a"}, scratch)
    store.promote(MODEL, A, reason="first")
    with pytest.raises(NotOnVolume, match="b" * 40):
        store.promote(MODEL, B, reason="it was never pulled")
    assert store.promoted(MODEL) == A


def test_promotions_at_the_same_time_follow_one_another(store: Either, scratch: Path) -> None:
    revisions = [Revision(f"{number:040x}") for number in range(6)]
    for revision in revisions:
        publish(store, revision, {"m.gguf": revision.encode()}, scratch)
    with ThreadPoolExecutor(len(revisions)) as pool:
        previous = list(pool.map(lambda revision: store.promote(MODEL, revision, reason="race"), revisions))
    # Each but the last was somebody's predecessor, exactly once.
    assert sorted([*previous, store.promoted(MODEL)], key=str) == sorted([None, *revisions], key=str)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"schema": 1}', manifest_of(B, {"m.gguf": b"a"}).to_json().encode(), b"\xff\xfe"],
    ids=["empty", "torn", "a list", "no fields", "that of another revision", "no text"],
)
def test_a_manifest_that_cannot_be_believed_is_corrupt_and_left_out(
    store: Either, scratch: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, A, {"m.gguf": b"a"}, scratch)
    sound = publish(store, C, {"m.gguf": b"a"}, scratch)
    spoil(store, A, text)
    with pytest.raises(CorruptFile, match="a" * 40):
        store.snapshot(MODEL, A)
    with caplog.at_level(logging.WARNING):
        assert store.snapshots() == [sound]
    assert "a" * 40 in caplog.text
    mended = publish(store, A, {"m.gguf": b"a"}, scratch)
    assert store.snapshot(MODEL, A) == mended


def test_a_report_is_replaced_as_a_whole(store: Either) -> None:
    where = store.write_report(MODEL, A, "audit.json", "first, and longer")
    assert where.endswith(f"reports/org--name/{A}/audit.json")
    store.write_report(MODEL, A, "audit.json", "zwei ✓")
    assert store.read_report(MODEL, A, "audit.json") == "zwei ✓"
    assert store.read_report(MODEL, B, "audit.json") is None


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\x00b", "a\\b"])
def test_a_report_s_name_cannot_leave_its_directory(store: Either, name: str) -> None:
    with pytest.raises(UnsafeName):
        store.write_report(MODEL, A, name, "text")
    with pytest.raises(UnsafeName):
        store.read_report(MODEL, A, name)


def test_the_label_says_which_store(store: Either) -> None:
    expected = f"the volume {store.root}" if isinstance(store, Volume) else f"s3://{store.bucket}/"
    assert store.label.startswith(expected)
