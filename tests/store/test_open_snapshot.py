"""Files of a snapshot are used as they were published: they are compared through the descriptors that are used."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.errors import CorruptFile, NotOnVolume
from paddock.model.artifact import Manifest
from paddock.store.open_snapshot import open_stored, read_stored
from paddock.store.volume import Volume
from paddock.store.volume.file_states import RECORDED_BYTES
from tests.support import edits
from tests.support.aged import age
from tests.support.stores import Q4, A, B, file_of, id_of, manifest_of, publish

SMALL = {"m.gguf": b"weights" * 1000, "chat_template.jinja": b"{{ messages }}", "deep/config.json": b"{}"}
SEGMENT_BYTES = 1024 * 1024
LARGE_BYTES = RECORDED_BYTES + 100


@pytest.fixture
def volume(memory: Path) -> Volume:
    volume = Volume(memory / "models")
    volume.prepare()
    return volume


@pytest.fixture(scope="module")
def large() -> tuple[bytes, Manifest]:
    content = os.urandom(1024) * (LARGE_BYTES // 1024) + b"end"
    return content, manifest_of(A, {"m.gguf": content}, segment_bytes=SEGMENT_BYTES)


@pytest.fixture
def stored(volume: Volume, large: tuple[bytes, Manifest]) -> Manifest:
    """A published snapshot with one file that is not read as a whole each time."""
    content, manifest = large
    staged = volume.partial / "staged"
    staged.write_bytes(content)
    volume.add_blob(staged, manifest.files[0].sha256, len(content))
    volume.publish(manifest)
    return manifest


def is_known(volume: Volume, manifest: Manifest) -> bool:
    file = manifest.files[0]
    return volume.file_states.is_known(file.sha256, (volume.snapshot_path(manifest.id) / file.path).stat())


def contents_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_only_the_files_of_the_manifest_are_shown_with_their_bytes(volume: Volume) -> None:
    manifest = publish(volume, A, SMALL, volume.root)
    snapshot = volume.snapshot_path(manifest.id)
    (snapshot / "planted-Q8_0.gguf").write_bytes(b"other")
    with open_stored(volume, manifest) as opened:
        assert contents_of(opened.directory) == SMALL
        for path in snapshot.rglob("*"):
            if path.is_file():
                path.unlink()  # nobody's matter: the files are open
        assert contents_of(opened.directory) == SMALL
    assert not opened.directory.exists()
    with pytest.raises(NotOnVolume):
        open_stored(volume, manifest_of(B, SMALL)).__enter__()


@pytest.mark.parametrize("edit", edits.EDITS.values(), ids=edits.EDITS)
@pytest.mark.parametrize("name", SMALL)
def test_an_edited_file_is_named_and_stays_refused(
    volume: Volume, name: str, edit: Callable[[Path, int], None]
) -> None:
    manifest = publish(volume, A, SMALL, volume.root)
    edit(volume.snapshot_path(manifest.id) / name, 1)
    for _ in range(2):
        with (
            pytest.raises(CorruptFile, match=f"{name} of org/name:Q8_0@aaaaaaaa") as caught,
            open_stored(volume, manifest),
        ):
            pass
        assert f"paddock verify {manifest.id} --repair" in caught.value.cure
    with pytest.raises(CorruptFile), volume.lease(manifest.id):
        pass
    with pytest.raises(CorruptFile):
        read_stored(volume, manifest, name)
    others = [other for other in SMALL if other != name]
    assert [read_stored(volume, manifest, other) for other in others] == [SMALL[other] for other in others]


def test_a_large_file_is_compared_again_only_after_a_change(volume: Volume, stored: Manifest) -> None:
    assert is_known(volume, stored)
    (volume.root / ".paddock" / "verified").rename(volume.root / "away")
    assert not is_known(Volume(volume.root), stored), "it was recorded, not only seen by this process"
    with open_stored(Volume(volume.root), stored):
        assert is_known(Volume(volume.root), stored)


def wait_for_another_time(volume: Volume, manifest: Manifest) -> None:
    """Let the last change of the file be older than a step of the clock, which is 10 ms at most."""
    path = volume.snapshot_path(manifest.id) / manifest.files[0].path
    while time.time_ns() - path.stat().st_ctime_ns < 10_000_000:
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("name", "offset"),
    [("in place", 0), ("in place", LARGE_BYTES - 200), ("by another file", LARGE_BYTES // 2), ("by a link", 5)],
)
def test_an_edited_large_file_is_found_and_quarantined(
    volume: Volume, stored: Manifest, name: str, offset: int
) -> None:
    edits.EDITS[name](volume.snapshot_path(stored.id) / "m.gguf", offset)
    with (
        pytest.raises(CorruptFile, match=r"m\.gguf of .* was changed after it was published: .*segment"),
        open_stored(volume, stored),
    ):
        pass
    assert len(volume.quarantined(stored.files[0].sha256)) == 1
    if name == "in place":
        assert not is_known(volume, stored)


@pytest.mark.parametrize("large_file", [True, False], ids=["large", "small"])
@pytest.mark.parametrize("error", [None, NotOnVolume("an error that the edit may have caused")])
def test_a_file_that_is_edited_while_it_is_open_is_found_at_the_end(
    volume: Volume, stored: Manifest, large_file: bool, error: Exception | None
) -> None:
    manifest = stored if large_file else publish(volume, B, SMALL, volume.root)
    path = volume.snapshot_path(manifest.id) / "m.gguf"

    def use(error: Exception | None) -> None:
        with open_stored(volume, manifest) as opened:
            opened.require_unchanged()
            edits.in_place(path, 5)
            if error is not None:
                raise error

    with pytest.raises(CorruptFile, match="was changed after it was published"):
        use(error)


def test_links_of_our_own_change_nothing_that_is_known(volume: Volume, stored: Manifest) -> None:
    """Each of these changes the inode of the blob, and not its bytes."""
    sha256 = stored.files[0].sha256
    small = file_of("config.json", b"{}")
    volume.add_bytes(b"{}")
    other = replace(stored, revision=B, files=(small, *stored.files))

    def link() -> None:
        volume.publish(other)

    def build_again() -> None:
        (volume.snapshot_path(other.id) / "config.json").unlink()
        volume.publish(other)

    def renew() -> None:
        volume.renew_blob(sha256)

    def evict() -> None:
        os.utime(volume.snapshot_path(other.id), (0, 0))
        volume.evict(other.id)

    def remove() -> None:
        volume.publish(other)
        volume.remove(other.model, revision=B)

    with open_stored(volume, stored) as opened:
        for change in (link, build_again, renew, evict, remove):
            before = volume.blob_path(sha256).stat().st_ctime_ns
            change()
            assert volume.blob_path(sha256).stat().st_ctime_ns != before, change.__name__
            assert is_known(volume, stored), change.__name__
            opened.require_unchanged()


def test_an_edit_before_a_link_of_our_own_is_found(volume: Volume, stored: Manifest) -> None:
    edits.in_place(volume.blob_path(stored.files[0].sha256), LARGE_BYTES // 3)
    volume.publish(replace(stored, revision=B))
    assert not is_known(volume, stored)
    with pytest.raises(CorruptFile), open_stored(volume, stored):
        pass


def test_a_volume_that_was_copied_without_its_links_is_sound(volume: Volume, stored: Manifest) -> None:
    path = volume.snapshot_path(stored.id) / "m.gguf"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    wait_for_another_time(volume, stored)
    with open_stored(volume, stored) as opened:
        assert (opened.directory / "m.gguf").read_bytes() == content


class TestManifest:
    def test_one_that_was_edited_is_refused_everywhere_and_written_again(self, volume: Volume) -> None:
        manifest = publish(volume, A, SMALL, volume.root)
        edits.with_its_manifest(volume, manifest.id, "chat_template.jinja", b"{{ 'evil' }}")
        for use in (lambda: volume.snapshot(manifest.id), lambda: volume.promote(manifest.id, reason="test")):
            with pytest.raises(CorruptFile, match="was changed after it was published") as caught:
                use()
            assert f"paddock verify {manifest.id} --repair" in caught.value.cure
        assert volume.unreadable() == [manifest.id]
        assert volume.restore_manifest(manifest.id)
        assert volume.snapshot(manifest.id) == manifest
        with open_stored(volume, manifest) as opened:
            assert contents_of(opened.directory) == SMALL

    def test_without_its_record_its_segment_digests_are_not_believed(self, volume: Volume, stored: Manifest) -> None:
        snapshot = volume.snapshot_path(stored.id)
        edits.in_place(snapshot / "m.gguf", LARGE_BYTES - 200)
        value = json.loads((snapshot / "manifest.json").read_bytes())
        forged = file_of("m.gguf", (snapshot / "m.gguf").read_bytes(), segment_bytes=SEGMENT_BYTES)
        value["files"][0]["segments"] = forged.segments
        (snapshot / "manifest.json").unlink()
        (snapshot / "manifest.json").write_text(json.dumps(value))
        volume.published.remove(stored.id, visible=lambda: None)
        manifest = volume.snapshot(stored.id)
        assert manifest is not None
        with pytest.raises(CorruptFile, match="has the sha256"), open_stored(volume, manifest):
            pass

    def test_one_without_a_record_is_told_from_one_that_was_edited(self, volume: Volume) -> None:
        manifest = publish(volume, A, SMALL, volume.root)
        volume.published.remove(manifest.id, visible=lambda: None)
        with open_stored(volume, manifest) as opened:
            assert not opened.is_recorded
            opened.record()
        with open_stored(Volume(volume.root), manifest) as opened:
            assert opened.is_recorded

    def test_records_go_with_their_snapshots(self, volume: Volume) -> None:
        records = volume.root / ".paddock" / "published"
        for variant in (Q4, id_of(A).variant):
            publish(volume, A, SMALL, volume.root, variant=variant)
        age(volume)
        volume.evict(id_of(A, Q4))
        assert len([path for path in records.rglob("*") if path.is_file()]) == 1
        volume.remove(id_of(A).model)
        assert [path for path in records.rglob("*") if path.is_file()] == []

    def test_publishing_again_keeps_the_manifest_byte_for_byte(self, volume: Volume) -> None:
        manifest = publish(volume, A, SMALL, volume.root)
        path = volume.snapshot_path(manifest.id) / "manifest.json"
        content = path.read_bytes()
        (path.parent / "m.gguf").unlink()
        volume.publish(replace(manifest, paddock_version="2"))
        assert path.read_bytes() == content
        (record,) = (volume.root / ".paddock" / "published").rglob("*.json")
        assert record.read_bytes() == content
