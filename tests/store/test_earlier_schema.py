"""Snapshots of schema 1, one for each revision, which an earlier version of Paddock made: they are ignored."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from paddock.errors import NotOnVolume
from paddock.model.names import Revision
from paddock.store.history import Promoted
from paddock.store.volume import Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, S3Store, file_of, id_of, manifest_of, publish

OLD = {"m.gguf": b"weights", "deep/config.json": b"{}"}
IGNORED = "an earlier version of Paddock made are ignored"


def manifest_1(revision: Revision) -> str:
    value = json.loads(manifest_of(revision, OLD).to_json())
    return json.dumps({key: field for key, field in value.items() if key != "variant"} | {"schema": 1})


def put_old(volume: Volume, revision: Revision) -> Path:
    """Publish and promote a snapshot of schema 1, and return its directory."""
    place = volume.root / ".paddock" / "snapshots" / MODEL.slug / revision
    for path, content in OLD.items():
        name = place / path
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(volume.blob_path(volume.add_bytes(content)), name)
    (place / "manifest.json").write_text(manifest_1(revision))
    link = volume.root / MODEL.slug
    link.unlink(missing_ok=True)
    link.symlink_to(f".paddock/snapshots/{MODEL.slug}/{revision}")
    history = volume.root / ".paddock" / "history" / f"{MODEL.slug}.jsonl"
    history.parent.mkdir(exist_ok=True)
    line = {"revision": revision, "previous": None, "at": "2026-01-01T00:00:00+00:00", "reason": "", "by": "me@here"}
    with history.open("a") as lines:
        lines.write(f"{json.dumps(line)}\n")
    return place


def contents_of(place: Path) -> dict[str, bytes]:
    return {path: (place / path).read_bytes() for path in OLD}


def test_old_snapshots_are_ignored(volume: Volume) -> None:
    put_old(volume, A)
    assert volume.snapshots() == []
    assert volume.entries() == []
    assert volume.ids(MODEL) == []
    assert [volume.snapshot(id_of(A, variant)) for variant in (Q8, Q4)] == [None, None]
    assert volume.promoted(MODEL) == Promoted(MODEL)
    assert volume.history(MODEL) == []
    with pytest.raises(NotOnVolume):
        volume.promote(id_of(A), reason="it is ignored")
    with pytest.raises(NotOnVolume):
        volume.rollback(MODEL, reason="there is none")


def test_a_warning_is_logged_once(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        volume.ids(MODEL)
        assert IGNORED not in caplog.text
        for revision in (A, B):
            put_old(volume, revision)
        for opened in (volume, volume, Volume(volume.root)):
            opened.prepare()
            opened.entries()
            opened.ids(MODEL)
    assert caplog.text.count(IGNORED) == 1
    assert str(volume.root) in caplog.text


def test_their_link_is_replaced_by_a_promotion(volume: Volume) -> None:
    place = put_old(volume, A)
    volume.links.check_available(MODEL, Q8)
    publish(volume, A, OLD, volume.root)
    assert str((volume.root / MODEL.slug).readlink()) == f".paddock/snapshots/{MODEL.slug}/{A}"
    volume.promote(id_of(A), reason="pulled again")
    assert str((volume.root / MODEL.slug).readlink()) == f"{MODEL.slug}--Q8_0"
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
    assert contents_of(volume.model_path(MODEL)) == contents_of(place) == OLD
    assert volume.ids(MODEL) == [id_of(A)], "its directories are no variants"
    assert [line.reason for line in volume.history(MODEL)] == ["pulled again"]


def test_a_variant_beside_the_default_leaves_their_link(volume: Volume) -> None:
    put_old(volume, A)
    publish(volume, B, {"q4.gguf": b"four"}, volume.root, variant=Q4)
    volume.promote(id_of(B, Q4), reason="beside", default=False)
    assert contents_of(volume.root / MODEL.slug) == OLD
    assert volume.promoted(MODEL) == Promoted(MODEL, None, {Q4: B})


def test_their_blobs_are_kept(volume: Volume) -> None:
    put_old(volume, A)
    volume.prepare()
    assert volume.collect(older_than_s=0) == 0
    files = [file_of(path, content) for path, content in OLD.items()]
    assert all(volume.has_blob(file.sha256, file.size) for file in files), "pulling again transfers nothing"


def test_removing_the_model_removes_them_with_their_link(volume: Volume) -> None:
    for revision in (A, B):
        put_old(volume, revision)
    assert volume.remove(MODEL) == ([], 0)
    assert not os.path.lexists(volume.root / MODEL.slug)
    assert list((volume.root / ".paddock" / "snapshots" / MODEL.slug).iterdir()) == []
    assert volume.collect(older_than_s=0) == sum(map(len, OLD.values()))
    with pytest.raises(NotOnVolume):
        volume.remove(MODEL)


def test_removing_one_revision_leaves_the_other_and_its_link(volume: Volume) -> None:
    first, second = put_old(volume, A), put_old(volume, B)
    volume.remove(MODEL, revision=A)
    assert not first.exists()
    assert contents_of(second) == contents_of(volume.root / MODEL.slug) == OLD
    volume.remove(MODEL, revision=B)
    assert not second.exists()
    assert not os.path.lexists(volume.root / MODEL.slug)


def test_removing_a_variant_leaves_the_old_one_beside_it(volume: Volume) -> None:
    place = put_old(volume, A)
    publish(volume, A, {"q4.gguf": b"four"}, volume.root, variant=Q4)
    assert volume.remove(MODEL, variant=Q4) == ([id_of(A, Q4)], 4)
    assert contents_of(place) == OLD
    assert contents_of(volume.root / MODEL.slug) == OLD


def test_removing_the_model_removes_both_kinds(volume: Volume) -> None:
    place = put_old(volume, A)
    for variant in (Q8, Q4):
        publish(volume, A, {"m.gguf": variant.encode()}, volume.root, variant=variant)
    volume.promote(id_of(A), reason="new")
    assert volume.remove(MODEL)[0] == [id_of(A, Q4), id_of(A)]
    assert not place.exists()
    assert [path.name for path in volume.root.iterdir()] == [".paddock"]


def test_in_s3_they_are_ignored_and_their_ref_is_replaced(s3_store: S3Store, scratch: Path) -> None:
    prefix = s3_store.label.split("/", 3)[3]
    for key, text in (
        (f"snapshots/{MODEL.slug}/{A}.json", manifest_1(A)),
        (f"refs/{MODEL.slug}.json", json.dumps({"revision": A, "previous": None, "reason": "", "at": "", "by": ""})),
    ):
        s3_store.client().put_object(Bucket=s3_store.bucket, Key=f"{prefix}/{key}", Body=text.encode())
    assert s3_store.snapshots() == []
    assert s3_store.ids(MODEL) == []
    assert s3_store.promoted(MODEL) == Promoted(MODEL)
    publish(s3_store, A, OLD, scratch)
    s3_store.promote([id_of(A)], default=id_of(A))
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
    assert s3_store.ids(MODEL) == [id_of(A)]
