"""The volume in particular: its paths, blobs that are added and repaired, and snapshots that never change."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from paddock.errors import (
    BlobMissing,
    CorruptFile,
    NoPermission,
    NotOnVolume,
    SnapshotDiffers,
)
from paddock.model.names import Sha256
from paddock.store.volume import Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, id_of, manifest_of, publish


def digest(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


def stage(volume: Volume, content: bytes) -> Path:
    staged = volume.partial / "staged"
    staged.write_bytes(content)
    return staged


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "models")
    assert volume.entries() == []
    assert volume.disk.free_bytes() > 0
    assert volume.sizes() == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_paths_are_those_of_the_design(volume: Volume) -> None:
    manifest = publish(volume, A, {"m.gguf": b"weights", "sub/c.json": b"{}"}, volume.root)
    publish(volume, A, {"four.gguf": b"four"}, volume.root, variant=Q4)
    volume.promote(id_of(A), reason="first")
    volume.promote(id_of(A, Q4), reason="beside", default=False)
    blob = volume.root / ".paddock" / "blobs" / "sha256" / digest(b"weights")[:2] / digest(b"weights")
    place = volume.root / ".paddock" / "snapshots" / "org--name" / A / "Q8_0"
    assert blob.stat().st_mode & 0o777 == 0o444
    assert (place / "m.gguf").samefile(blob)
    assert not (place / "m.gguf").is_symlink()
    assert json.loads((place / "manifest.json").read_text()) == json.loads(manifest.to_json())
    assert volume.snapshot_path(manifest.id) == place
    assert {path.name: str(path.readlink()) for path in volume.root.iterdir() if path.name != ".paddock"} == {
        "org--name": "org--name--Q8_0",
        "org--name--Q4_K_M": f".paddock/snapshots/org--name/{A}/Q4_K_M",
        "org--name--Q8_0": f".paddock/snapshots/org--name/{A}/Q8_0",
    }
    assert (volume.model_path(MODEL) / "sub" / "c.json").read_bytes() == b"{}"
    assert (volume.model_path(MODEL, Q8) / "m.gguf").read_bytes() == b"weights"
    assert (volume.model_path(MODEL, Q4) / "four.gguf").read_bytes() == b"four"


def test_a_staged_file_is_moved_to_the_blobs(volume: Volume) -> None:
    for _ in range(2):
        staged = stage(volume, b"bytes")
        blob = volume.add_blob(staged, digest(b"bytes"), 5)
        assert blob.read_bytes() == b"bytes"
        assert not staged.exists()


def test_a_staged_file_of_another_size_never_becomes_a_blob(volume: Volume) -> None:
    staged = stage(volume, b"short")
    with pytest.raises(CorruptFile, match="has 5 bytes, not the 6"):
        volume.add_blob(staged, digest(b"longer"), 6)
    assert not volume.has_blob(digest(b"longer"), 6)
    assert staged.exists()


def test_a_staged_link_never_becomes_a_blob(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    staged = volume.partial / "staged"
    staged.symlink_to(tmp_path / "secret")
    with pytest.raises(NoPermission):
        volume.add_blob(staged, digest(b"secret"), 6)
    assert not volume.has_blob(digest(b"secret"), 6)


def test_a_blob_that_was_cut_short_is_replaced(volume: Volume) -> None:
    blob = volume.add_blob(stage(volume, b"bytes"), digest(b"bytes"), 5)
    blob.unlink()
    blob.write_bytes(b"by")
    assert not volume.has_blob(digest(b"bytes"), 5)
    volume.add_blob(stage(volume, b"bytes"), digest(b"bytes"), 5)
    assert blob.read_bytes() == b"bytes"


def test_a_repaired_blob_is_linked_when_its_snapshot_is_published_again(volume: Volume) -> None:
    manifest = publish(volume, A, {"m.gguf": b"right"}, volume.root)
    blob = volume.blob_path(digest(b"right"))
    blob.chmod(0o644)
    blob.write_bytes(b"wrong")
    bad = volume.quarantine(digest(b"right"))
    assert bad.read_bytes() == b"wrong"
    with pytest.raises(BlobMissing):
        volume.publish(manifest)
    volume.add_blob(stage(volume, b"right"), digest(b"right"), 5)
    volume.publish(manifest)
    assert (volume.snapshot_path(id_of(A)) / "m.gguf").read_bytes() == b"right"
    with pytest.raises(NotOnVolume):
        volume.quarantine(digest(b"never there"))


def test_a_snapshot_never_changes_once_it_is_published(volume: Volume) -> None:
    publish(volume, A, {"q8.gguf": b"eight"}, volume.root)
    volume.promote(id_of(A), reason="first")
    place = volume.snapshot_path(id_of(A))
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    with (volume.model_path(MODEL) / "q8.gguf").open("rb") as reader:
        with pytest.raises(SnapshotDiffers):
            publish(volume, A, {"q8.gguf": b"other"}, volume.root)
        publish(volume, A, {"q8.gguf": b"eight"}, volume.root, age_s=60)
        publish(volume, A, {"q4.gguf": b"four"}, volume.root, variant=Q4)
        assert reader.read() == b"eight"
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()} == before
    assert sorted(path.name for path in place.parent.iterdir()) == ["Q4_K_M", "Q8_0"]


def test_the_cure_for_other_files_under_one_identity_helps(volume: Volume) -> None:
    publish(volume, A, {"q8.gguf": b"eight"}, volume.root)
    with pytest.raises(SnapshotDiffers) as caught:
        publish(volume, A, {"q8.gguf": b"other"}, volume.root)
    assert f"paddock rm {id_of(A)}" in str(caught.value.cure)
    volume.remove(MODEL, variant=Q8, revision=A)
    other = publish(volume, A, {"q8.gguf": b"other"}, volume.root)
    assert volume.snapshots() == [other]


def test_entries_have_what_ls_lists(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"aa"}, volume.root)
    publish(volume, B, {"m.gguf": b"bbb"}, volume.root, age_s=60)
    publish(volume, A, {"m.gguf": b"four"}, volume.root, variant=Q4, age_s=90)
    volume.promote(id_of(A, Q4), reason="beside")
    volume.promote(id_of(B), reason="new")
    volume.usage.touch(id_of(B))
    volume.pins.add(id_of(A))
    shown = [
        (entry.manifest.id, entry.promoted, entry.default, entry.pinned, entry.size_bytes)
        for entry in volume.entries(MODEL)
    ]
    assert shown == [
        (id_of(A), False, False, True, 2),
        (id_of(B), True, True, False, 3),
        (id_of(A, Q4), True, False, False, 4),
    ]
    assert [entry.last_used is not None for entry in volume.entries()] == [False, True, False]


def test_four_processes_can_publish_the_same_snapshot_at_once(volume: Volume) -> None:
    program = textwrap.dedent(f"""
        import pathlib, sys
        from paddock.store.volume import Volume
        from tests.support.stores import A, publish
        root = pathlib.Path({str(volume.root)!r})
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(20):
            publish(Volume(root), A, {{"m.gguf": b"weights", "c.json": b"{{}}"}}, root, age_s=number)
    """)
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0
    place = volume.snapshot_path(id_of(A))
    assert [path.name for path in place.parent.iterdir()] == ["Q8_0"]
    assert (place / "m.gguf").samefile(volume.blob_path(digest(b"weights")))
    assert volume.sizes() == (9, 9)
    assert list(volume.partial.iterdir()) == []
    assert manifest_of(A, {"m.gguf": b"weights", "c.json": b"{}"}).files == volume.snapshots()[0].files


def test_a_blob_that_vanishes_while_it_is_read_is_missing_and_fetched_again(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    volume.prepare()
    sha256 = volume.add_bytes(b"content")
    with volume.reading_blob(sha256) as path:
        assert path.read_bytes() == b"content"
    path.unlink()
    with pytest.raises(BlobMissing, match=sha256), volume.reading_blob(sha256) as path:
        path.read_bytes()
