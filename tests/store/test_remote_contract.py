"""The contract of a remote store: the same tests over three S3 servers and over a store on a plain directory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paddock.errors import CorruptFile, InUse, NotOnVolume, TransferRefused, UnsafeName
from paddock.model.artifact import SnapshotFile
from paddock.model.names import Sha256
from paddock.store.copying import push
from paddock.store.history import Promoted
from paddock.store.holdings import Holdings
from paddock.store.protocol import HeldLease, RemoteStore
from paddock.store.usage import Usage, UsageRow, add_up
from paddock.store.volume import Volume
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.support.stores import MODEL, Q4, Q8, A, B, C, file_of, id_of, manifest_of, publish, put_blobs
from tests.support.waiting import wait_for_value

BLOB = Sha256("a" * 64)
SEGMENT_BYTES = 64 * 1024
CONTENT = bytes(range(256)) * 1024  # four segments


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Path, SnapshotFile]:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path, file_of("deep/er/m ü.gguf", CONTENT, segment_bytes=SEGMENT_BYTES)


def test_a_check_of_a_reachable_store_succeeds(remote: RemoteStore) -> None:
    remote.check()
    assert "://" in remote.label


def test_a_blob_is_sent_once_and_progress_counts_its_bytes(
    remote: RemoteStore, blob: tuple[Path, SnapshotFile]
) -> None:
    path, file = blob
    progress: list[int] = []
    assert remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES, progress=progress.append) == len(CONTENT)
    assert sum(progress) == len(CONTENT)
    assert remote.has_blob(file.sha256, file.size)
    assert not remote.has_blob(file.sha256, file.size + 1)
    assert remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES) == 0


def test_a_note_is_replaced_as_a_whole(remote: RemoteStore) -> None:
    name = "refresh-reports/2026-11-30.md"
    assert remote.read_note(name) is None
    for text in ("one", "two"):
        assert remote.write_note(name, text) == f"{remote.label}/reports/{name}"
        assert remote.read_note(name) == text
    with pytest.raises(UnsafeName):
        remote.write_note("refresh-reports/../x.md", "")


def test_an_empty_blob_is_a_blob(remote: RemoteStore, tmp_path: Path) -> None:
    path, file = tmp_path / "empty", file_of("empty", b"", segment_bytes=SEGMENT_BYTES)
    path.write_bytes(b"")
    remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES)
    assert remote.has_blob(file.sha256, 0)


def test_a_damaged_blob_is_not_sent(remote: RemoteStore, blob: tuple[Path, SnapshotFile]) -> None:
    path, file = blob
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(CorruptFile, match="damaged"):
        remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES)
    assert not remote.has_blob(file.sha256, file.size)


def test_a_blob_is_fetched_from_its_source_in_ranges(
    remote: RemoteStore, blob: tuple[Path, SnapshotFile], tmp_path: Path
) -> None:
    path, file = blob
    remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES)
    source = remote.source(file, model=MODEL)
    assert source.label == f"{remote.label}: org/name: {file.path}"
    staged = fetch(
        source, staging=tmp_path / "staging", options=Options(segment_bytes=SEGMENT_BYTES, span_bytes=10_000)
    )
    assert staged is not None
    assert (staged.path.read_bytes(), staged.sha256) == (CONTENT, file.sha256)
    assert staged.segments == file.segments
    staged.discard()


def test_the_source_of_a_missing_blob_raises_transfer_refused(remote: RemoteStore, tmp_path: Path) -> None:
    source = remote.source(SnapshotFile(path="m.gguf", size=5, sha256=BLOB))
    with pytest.raises(TransferRefused):
        fetch(source, staging=tmp_path / "staging", options=Options())


def test_other_bytes_have_another_tag_and_a_dropped_blob_is_gone(
    remote: RemoteStore, blob: tuple[Path, SnapshotFile], tmp_path: Path
) -> None:
    path, file = blob
    remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES)
    first = remote.blob_tag(file.sha256, file.size)
    assert first is not None
    remote.drop_blob(file.sha256)
    remote.drop_blob(file.sha256)
    assert remote.blob_tag(file.sha256, file.size) is None
    remote.put_blob(path, file, segment_bytes=SEGMENT_BYTES)
    assert remote.blob_tag(file.sha256, file.size) == first


def test_several_variants_are_promoted_at_once_and_the_others_stay(remote: RemoteStore, tmp_path: Path) -> None:
    for revision in (A, B):
        for variant in (Q8, Q4):
            publish(remote, revision, {"m.gguf": f"{variant} {revision}".encode()}, tmp_path, variant=variant)
    remote.promote([id_of(A), id_of(A, Q4)], default=id_of(A))
    assert remote.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A, Q4: A})
    remote.promote([id_of(B, Q4)])
    remote.promote([], default=id_of(B, Q4))
    assert remote.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: A, Q4: B})


def test_a_default_that_is_not_promoted_there_is_refused(remote: RemoteStore, tmp_path: Path) -> None:
    publish(remote, A, {"m.gguf": b"a"}, tmp_path)
    with pytest.raises(NotOnVolume, match="promote it there first"):
        remote.promote([], default=id_of(A))
    assert remote.promoted(MODEL) == Promoted(MODEL)


def test_the_usage_of_each_worker_and_volume_is_an_object_of_its_own(remote: RemoteStore) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one, two = (UsageRow(worker, id_of(A), "serve", at, at, Usage(requests=1)) for worker in ("one", "two"))
    assert remote.usage() == []
    for row, volume in ((one, "x"), (two, "x"), (one, "y"), (one, "y")):
        remote.write_usage(row.worker, volume, row.to_line())
    assert remote.usage() == add_up([one, one, two])
    with pytest.raises(UnsafeName):
        remote.write_usage("../one", "x", b"")


def test_the_usage_of_silent_workers_is_merged_and_counts_once(remote: RemoteStore) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [UsageRow(f"host-{number}", id_of(A), "serve", at, at, Usage(requests=1)) for number in range(6)]
    for row in rows[:4]:
        remote.write_usage(row.worker, "x", row.to_line())
    assert remote.merge_silent_usage(silent_s=3600) == 0
    with ThreadPoolExecutor(2) as pool:
        merged = [pool.submit(remote.merge_silent_usage, silent_s=0) for _ in range(2)]
        assert remote.usage() == rows[:4]
    assert max(one.result() for one in merged) == 4
    assert remote.usage() == rows[:4]
    again = replace(rows[0], usage=Usage(requests=5))
    for row in (again, *rows[4:]):
        remote.write_usage(row.worker, "x", row.to_line())
    for _ in range(2):
        assert remote.usage() == [again, *rows[1:]]
        remote.merge_silent_usage(silent_s=0)
    assert remote.merge_silent_usage(silent_s=0) == 0


def test_of_many_workers_one_takes_the_lease(remote: RemoteStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: remote.take_lease(BLOB, lease_s=60), range(8)))
    assert sum(lease is not None and not isinstance(lease, HeldLease) for lease in taken) == 1


def test_a_held_lease_is_renewed_with_its_progress_and_released_at_the_end(remote: RemoteStore) -> None:
    lease = remote.take_lease(BLOB, lease_s=60)
    assert lease is not None
    assert not isinstance(lease, HeldLease)

    def progress() -> HeldLease | None:
        held = remote.take_lease(BLOB, lease_s=60)
        assert isinstance(held, HeldLease)
        return held if held.done_bytes == 12_345 else None

    with lease.held(lease_s=0.6):
        lease.set_progress(12_345)
        held = wait_for_value(progress)
        assert not held.is_expired
        assert "process" in held.owner
    again = remote.take_lease(BLOB, lease_s=60)
    assert again is not None
    assert not isinstance(again, HeldLease)


def test_of_many_workers_one_takes_over_an_expired_lease(remote: RemoteStore) -> None:
    dead = remote.take_lease(BLOB, lease_s=60)
    assert dead is not None
    assert not isinstance(dead, HeldLease)
    held = remote.take_lease(BLOB, lease_s=-1.0)  # older than that, whatever its age
    assert isinstance(held, HeldLease)
    assert held.is_expired
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: remote.take_over_lease(BLOB, held), range(8)))
    assert sum(lease is not None for lease in taken) == 1
    dead.release()  # another worker's by now
    assert isinstance(remote.take_lease(BLOB, lease_s=60), HeldLease)


def test_a_snapshot_of_the_volume_is_pushed_by_several_workers_at_once(
    remote: RemoteStore, volume: Volume, tmp_path: Path
) -> None:
    contents = {"m.gguf": CONTENT, "config.json": b"{}"}
    manifest = manifest_of(A, contents, segment_bytes=SEGMENT_BYTES)
    put_blobs(volume, manifest, contents, tmp_path)
    volume.publish(manifest)
    together = threading.Barrier(3)

    def work(_: int) -> int:
        together.wait()
        return push(volume, remote, manifest).bytes_transferred

    with ThreadPoolExecutor(3) as pool:
        assert min(pool.map(work, range(3))) >= 0
    assert remote.snapshot(manifest.id) == manifest
    assert all(remote.has_blob(file.sha256, file.size) for file in manifest.files)


def test_a_removed_snapshot_is_gone_and_its_blobs_stay(remote: RemoteStore, tmp_path: Path) -> None:
    first = publish(remote, A, {"m.gguf": b"a"}, tmp_path)
    second = publish(remote, B, {"m.gguf": b"b"}, tmp_path)
    remote.remove(first.id)
    remote.remove(first.id)
    assert remote.snapshots(MODEL) == [second]
    assert remote.blobs() == {first.files[0].sha256: 1, second.files[0].sha256: 1}
    assert remote.named_blobs() == {second.files[0].sha256}


def test_a_snapshot_that_is_or_was_promoted_is_not_removed(remote: RemoteStore, tmp_path: Path) -> None:
    for revision in (A, B, C):
        publish(remote, revision, {"m.gguf": revision.encode()}, tmp_path)
        remote.promote([id_of(revision)])
    assert remote.previous(MODEL) == [id_of(B)]
    for revision, reason in ((C, "is promoted"), (B, "was promoted before")):
        with pytest.raises(InUse, match=reason):
            remote.remove(id_of(revision))
    remote.remove(id_of(A))
    assert remote.ids(MODEL) == [id_of(B), id_of(C)]


def test_a_marked_blob_is_removed_unless_it_is_needed_or_its_mark_changed(remote: RemoteStore, tmp_path: Path) -> None:
    blobs = {}
    for content in (b"1", b"2", b"3"):
        file = file_of("m.gguf", content)
        (tmp_path / "blob").write_bytes(content)
        remote.put_blob(tmp_path / "blob", file, segment_bytes=SEGMENT_BYTES)
        remote.mark_blob(file.sha256, None)
        remote.mark_blob(file.sha256, None)  # it has a mark already
        blobs[content] = file
    marks = remote.marks()
    assert {mark.state for mark in marks.values()} == {"marked"}
    assert all(0 <= mark.age_s < 60 for mark in marks.values())
    remote.put_blob(tmp_path / "blob", blobs[b"3"], segment_bytes=SEGMENT_BYTES)  # a worker is about to publish it
    asked = []

    def needed() -> set[Sha256]:
        asked.append(1)
        return {blobs[b"2"].sha256}

    assert remote.remove_marked(marks, needed=needed) == {blobs[b"1"].sha256}
    assert len(asked) == 1
    assert set(remote.blobs()) == {blobs[b"2"].sha256, blobs[b"3"].sha256}
    left = remote.marks()
    assert {sha256: mark.state for sha256, mark in left.items()} == dict.fromkeys(remote.blobs(), "needed")
    assert remote.remove_marked(marks, needed=set) == set(), "the marks are no longer what they were"
    remote.mark_blob(blobs[b"2"].sha256, left[blobs[b"2"].sha256])
    again = remote.marks()
    assert remote.remove_marked(again, needed=lambda: None) == set(), "it is not known what is named"


def test_what_a_volume_has_is_read_back_by_others(remote: RemoteStore) -> None:
    has = Holdings("the volume /models of a@b", frozenset({id_of(A), id_of(B, Q4)}), frozenset({id_of(A)}), {BLOB})
    remote.write_holdings("0123456789abcdef", has)
    remote.write_holdings("0123456789abcdef", has)
    ((name, read),) = remote.holdings().items()
    assert name == "0123456789abcdef"
    assert read is not None
    assert replace(read, age_s=0.0) == has
    assert not read.is_stale
