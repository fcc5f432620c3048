"""What dead processes leave on a volume is found, and removed once it is old; all else stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.orphans import Orphans, clean_orphans
from paddock.lifecycle.upkeep.verify import verify_volume
from paddock.model.source import Expected
from paddock.settings import Settings
from paddock.store.named_blobs import named_blobs
from paddock.store.volume import ORPHAN_AGE_S, Volume
from paddock.transfer.staging import create_seed, publish_seed
from tests.support.stored_model import WEIGHTS, random_bytes
from tests.support.stores import MODEL, SEGMENT_BYTES, A, B, id_of, manifest_of, publish

OLD_S = ORPHAN_AGE_S + 3600
CONTENT = random_bytes(2 * SEGMENT_BYTES)
OTHER = random_bytes(1000, seed=2)


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """A volume with one promoted snapshot, pinned and used, and every record of it."""
    clients = connect(Settings(volume=tmp_path / "models"))
    volume = clients.volume
    volume.prepare()
    manifest = publish(volume, A, {WEIGHTS: CONTENT, "config.json": b"{}"}, tmp_path)
    volume.promote(manifest.id, reason="test")
    volume.pins.add(manifest.id)
    volume.usage.touch(manifest.id)
    volume.write_report(manifest.id, "report.json", "{}")
    assert verify_volume(clients).ok
    return clients


def private(volume: Volume) -> Path:
    return volume.root / ".paddock"


def leave_partial(volume: Volume) -> Path:
    manifest = manifest_of(B, {WEIGHTS: OTHER})
    expected = Expected(len(OTHER), manifest.files[0].sha256)
    directory = create_seed(volume.partial, expected, segment_bytes=SEGMENT_BYTES, quiet_s=60)
    directory.data.write_bytes(OTHER)
    directory.journal.add_checkpoint(len(OTHER), manifest.files[0].segments[0])
    publish_seed(directory, volume.partial)
    return directory.directory


def leave_partial_without_journal(volume: Volume) -> Path:
    path = volume.partial / ("ab" * 32) / "token"
    path.mkdir(parents=True)
    return path


def leave_temporary(volume: Volume) -> Path:
    path = private(volume) / "history" / ".staging-0123"
    path.write_bytes(b"x")
    return path


def leave_trash(volume: Volume) -> Path:
    path = volume.snapshot_path(id_of(A)).with_name(".staging-4567")
    path.mkdir()
    (path / "config.json").write_bytes(b"{}")
    return path


def leave_blob(volume: Volume) -> Path:
    return volume.blob_path(volume.add_bytes(OTHER))


def leave_quarantined(volume: Volume) -> Path:
    manifest = volume.snapshots()[0]
    digest = next(file.sha256 for file in manifest.files if file.path == WEIGHTS)
    path = volume.quarantine(digest)
    volume.add_bytes(CONTENT)
    volume.publish(manifest)
    return path


def leave_lease(volume: Volume) -> Path:
    path = private(volume) / "leases" / MODEL.slug / "0123456789abcdef"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def leave_pin(volume: Volume) -> Path:
    path = private(volume) / "pins" / MODEL.slug / B / "Q8_0"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def leave_verification(volume: Volume) -> Path:
    digest = manifest_of(B, {WEIGHTS: OTHER}).files[0].sha256
    volume.verifications.record(digest)
    return private(volume) / "verified" / digest[:2] / f"{digest}-volume.json"


def leave_directory(volume: Volume) -> Path:
    path = private(volume) / "snapshots" / "org--gone"
    path.mkdir()
    return path


LEFT: dict[str, tuple[Callable[[Volume], Path], str]] = {
    "a download that is not complete": (leave_partial, "partial"),
    "a download that had just begun": (leave_partial_without_journal, "partial"),
    "a temporary file": (leave_temporary, "staging"),
    "a snapshot that was being removed": (leave_trash, "staging"),
    "a blob that no snapshot names": (leave_blob, "blob"),
    "a damaged copy of a repaired blob": (leave_quarantined, "quarantine"),
    "a lease of a dead server": (leave_lease, "lease"),
    "a pin of a removed snapshot": (leave_pin, "record"),
    "a verification of a removed blob": (leave_verification, "record"),
    "an empty directory": (leave_directory, "directory"),
}


def age(path: Path, seconds: float) -> None:
    """Set the times of a file or a tree to `seconds` ago."""
    then = time.time() - seconds
    for one in (*path.rglob("*"), path) if path.is_dir() else (path,):
        os.utime(one, (then, then), follow_symlinks=False)


def rows(orphans: Orphans, path: Path) -> list[tuple[str, bool]]:
    return [(row.kind, row.removed) for row in orphans.rows if row.path == str(path)]


def content(volume: Volume) -> set[str]:
    return {path.relative_to(volume.root).as_posix() for path in volume.root.rglob("*")}


@pytest.mark.parametrize("what", LEFT)
def test_what_a_dead_process_left_is_listed_while_young_and_removed_when_old(clients: Clients, what: str) -> None:
    leave, kind = LEFT[what]
    volume = clients.volume
    before = content(volume) - {path for path in content(volume) if path.startswith(".paddock/verified")}
    path = leave(volume)
    assert rows(clean_orphans(clients), path) == [(kind, False)]
    assert os.path.lexists(path)
    age(path, OLD_S)
    cleaned = clean_orphans(clients)
    assert rows(cleaned, path) == [(kind, True)]
    assert not os.path.lexists(path)
    assert (cleaned.foreign, cleaned.problems) == ((), ())
    assert before <= content(volume)
    assert verify_volume(clients).ok
    with volume.lease(id_of(A)):
        pass


def test_nothing_of_a_volume_without_orphans_is_touched(clients: Clients) -> None:
    volume = clients.volume
    with volume.lease(id_of(A)):
        for directory, _, files in os.walk(volume.root):
            for name in files:
                os.utime(Path(directory, name), (0, 0), follow_symlinks=False)
        before = content(volume)
        assert clean_orphans(clients, grace_s=0).rows == ()
        assert content(volume) == before


def test_a_download_that_runs_and_a_blob_that_waits_for_its_repair_stay(clients: Clients) -> None:
    volume = clients.volume
    expected = Expected(4, named_blobs(volume.snapshots()).popitem()[0])
    directory = create_seed(volume.partial, expected, segment_bytes=4, quiet_s=60)
    damaged = volume.quarantine(manifest_of(A, {WEIGHTS: CONTENT}).files[0].sha256)
    for path in (directory.directory, damaged):
        age(path, OLD_S)
    cleaned = clean_orphans(clients)
    assert [row for row in cleaned.rows if row.kind in {"partial", "quarantine"}] == []
    assert damaged.exists()
    assert directory.is_owned
    directory.discard()


def test_a_removed_models_files_become_orphans_which_a_later_run_removes(clients: Clients) -> None:
    volume = clients.volume
    volume.pins.remove(id_of(A))
    damaged = volume.quarantine(manifest_of(A, {WEIGHTS: CONTENT}).files[0].sha256)
    volume.remove(MODEL)
    assert {row.kind for row in clean_orphans(clients).rows} >= {"quarantine", "record"}
    age(damaged, OLD_S)
    assert rows(clean_orphans(clients), damaged) == [("quarantine", True)]
    for _ in range(3):  # a directory is empty only once what was in it is gone
        clean_orphans(clients, grace_s=-1)
    assert clean_orphans(clients).rows == ()


@pytest.mark.parametrize(
    "place",
    [
        "notes.txt",
        ".hidden",
        ".paddock/mine",
        ".paddock/blobs/other",
        ".paddock/blobs/sha256/readme",
        ".paddock/blobs/sha256/ab/note",
        ".paddock/quarantine/note",
        ".paddock/snapshots/mine",
        ".paddock/snapshots/org--name/draft",
        ".paddock/partial/My File",
    ],
)
def test_foreign_files_are_told_and_left(clients: Clients, place: str) -> None:
    path = clients.volume.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("of a person")
    age(path, OLD_S)
    cleaned = clean_orphans(clients, grace_s=0)
    assert cleaned.foreign == (str(path),)
    assert path.read_text() == "of a person"
    assert clean_orphans.warnings is not None
    assert str(path) in clean_orphans.warnings(cleaned)[0]
    assert "1 foreign file left" in cleaned.line


def test_while_a_manifest_cannot_be_read_no_blob_is_an_orphan(clients: Clients) -> None:
    path = leave_blob(clients.volume)
    age(path, OLD_S)
    manifest = clients.volume.snapshot_path(id_of(A)) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert rows(clean_orphans(clients), path) == []
    assert path.exists()
