"""`gc --s3`: what a fleet needs stays, and a blob goes only days after nothing named it any more."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.hub import Hub
from paddock.lifecycle.acquire.cache import push_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.evicted import Evicted
from paddock.lifecycle.holdings import share_holdings
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.remote_eviction import LastUsed, evict_remote
from paddock.model.names import Revision
from paddock.model.reference import SnapshotId
from paddock.settings import Settings
from paddock.store.holdings import MAX_AGE_S
from paddock.store.remote import ObjectStore
from paddock.store.volume import Volume
from tests.support.aged import age
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.stores import MODEL, publish

REVISIONS = [Revision(f"{number:040x}") for number in range(8)]
DAY_S = 24 * 3600.0


def worker(tmp_path: Path, name: str) -> Clients:
    settings = Settings(volume=tmp_path / name, keep_revisions=0)
    volume = Volume(settings.volume)
    volume.prepare()
    return Clients(settings, Hub(settings), volume, ObjectStore(bucket(tmp_path)))


def bucket(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "bucket", label="directory://test")


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """A worker with an empty volume, and a store that several others filled."""
    return worker(tmp_path, "models")


@pytest.fixture
def remote(clients: Clients) -> ObjectStore:
    assert isinstance(clients.remote, ObjectStore)
    return clients.remote


def stored(remote: ObjectStore, tmp_path: Path, number: int, size: int = 1000) -> SnapshotId:
    contents = {"m.gguf": bytes([number]) * size, "config.json": b"{}"}
    return publish(remote, REVISIONS[number], contents, tmp_path, age_s=number).id


def age_marks(tmp_path: Path, by_s: float = 8 * DAY_S) -> None:
    for path in (tmp_path / "bucket" / "marks").iterdir():
        os.utime(path, (time.time() - by_s,) * 2)


def clean(clients: Clients, *, keep_bytes: int | None = None, last_used: LastUsed = lambda _: None) -> Evicted:
    """Two dry runs, which must print the same and what then is done."""
    printed = [evict_remote(clients, keep_bytes=keep_bytes, dry_run=True, last_used=last_used) for _ in range(2)]
    done = evict_remote(clients, keep_bytes=keep_bytes, last_used=last_used)
    assert printed[0] is not None
    assert printed[1] is not None
    assert done is not None
    assert printed[0].to_json() == printed[1].to_json() == {**done.to_json(), "dry_run": True}
    return done


def test_a_budget_takes_the_least_recently_used_and_keeps_what_is_promoted(
    clients: Clients, remote: ObjectStore, tmp_path: Path
) -> None:
    ids = [stored(remote, tmp_path, number) for number in range(6)]
    remote.promote([ids[4]])
    remote.promote([ids[5]])
    now = datetime.now(UTC)
    uses = {ids[0]: now - timedelta(days=30), ids[1]: now - timedelta(days=1)}
    done = clean(clients, keep_bytes=0, last_used=uses.get)
    assert [row.id for row in done.removed] == [ids[2], ids[3], ids[0]]
    assert [row.reason for row in done.kept] == ["used in the last week", "the target of a rollback", "promoted"]
    assert done.removed[0].reason == "the budget; never used, published 2026-01-01"
    assert (done.freed_bytes, done.pending_bytes, done.over_bytes) == (0, 3000, 3002)
    assert len(remote.blobs()) == 7, "their blobs are only marked"
    early = clean(clients, keep_bytes=0, last_used=uses.get)
    assert (early.removed, early.freed_bytes, early.pending_bytes) == ((), 0, 3000)
    age_marks(tmp_path)
    later = clean(clients, keep_bytes=0, last_used=uses.get)
    assert (later.orphans, later.freed_bytes, later.pending_bytes) == (3, 3000, 0)
    assert sum(remote.blobs().values()) == later.used_bytes == 3002
    assert remote.marks() == {}


def test_what_any_volume_has_stays_while_that_volume_lives(
    clients: Clients, remote: ObjectStore, tmp_path: Path
) -> None:
    ids = [stored(remote, tmp_path, number) for number in range(2)]
    other = worker(tmp_path, "other")
    has = publish(other.volume, REVISIONS[0], {"m.gguf": bytes(1000), "config.json": b"{}"}, tmp_path)
    unnamed = publish(other.volume, REVISIONS[7], {"m.gguf": b"shared, and in no snapshot of S3"}, tmp_path)
    for file in unnamed.files:
        path = other.volume.blob_path(file.sha256)
        remote.put_blob(path, file, segment_bytes=unnamed.segment_bytes)
    push_snapshot(other, has)
    done = clean(clients, keep_bytes=0)
    assert [row.id for row in done.removed] == [ids[1]]
    assert [row.reason.partition(" of ")[0] for row in done.kept] == [f"on the volume {other.volume.root}"]
    age_marks(tmp_path)
    clean(clients, keep_bytes=0)
    assert remote.has_blob(unnamed.files[0].sha256, unnamed.files[0].size)
    (holdings,) = (tmp_path / "bucket" / "holdings").glob(f"{other.volume.identity.name()}.json")
    os.utime(holdings, (time.time() - MAX_AGE_S - 1,) * 2)
    done = clean(clients, keep_bytes=0)
    assert [row.id for row in done.removed] == [ids[0]]
    assert done.notes[0].startswith(f"what the volume {other.volume.root} of ")


def test_holdings_that_cannot_be_read_keep_everything(clients: Clients, remote: ObjectStore, tmp_path: Path) -> None:
    stored(remote, tmp_path, 0)
    remote.objects.put("holdings/0123456789abcdef.json", b"[]")
    done = clean(clients, keep_bytes=0)
    assert (done.removed, done.over_bytes) == ((), 1002)
    assert done.kept[0].reason == (
        "no blob can be freed: directory://test/holdings/0123456789abcdef.json (remove it if that volume is gone)"
        " cannot be read"
    )


def test_a_manifest_that_cannot_be_read_keeps_every_blob(clients: Clients, remote: ObjectStore, tmp_path: Path) -> None:
    id = stored(remote, tmp_path, 0)
    (manifest,) = (tmp_path / "bucket" / "snapshots").rglob("*.json")
    manifest.write_text("{")
    for _ in range(2):
        assert clean(clients, keep_bytes=0).pending_bytes == 0
    assert len(remote.blobs()) == 2
    assert remote.ids(MODEL) == [id]


def test_without_a_budget_only_unnamed_blobs_go(clients: Clients, remote: ObjectStore, tmp_path: Path) -> None:
    ids = [stored(remote, tmp_path, number) for number in range(2)]
    remote.remove(ids[0])
    done = clean(clients)
    assert [row.reason for row in done.kept] == ["no budget is set"]
    assert done.pending_bytes == 1000
    stored(remote, tmp_path, 0)  # it is published again in time
    age_marks(tmp_path)
    assert clean(clients).freed_bytes == 0
    assert len(remote.blobs()) == 3


def test_a_copy_that_a_volume_begins_to_rely_on_is_put_back(
    clients: Clients, remote: ObjectStore, tmp_path: Path
) -> None:
    id = stored(remote, tmp_path, 0)
    other = worker(tmp_path, "other")
    publish(other.volume, REVISIONS[0], {"m.gguf": bytes(1000), "config.json": b"{}"}, tmp_path)

    class Telling(DirectoryObjects):
        def delete(self, key: str) -> None:
            if key.startswith("snapshots/"):
                share_holdings(other)
            super().delete(key)

    telling = ObjectStore(Telling(tmp_path / "bucket", label="directory://test"))
    done = evict_remote(replace(clients, remote=telling), keep_bytes=0)
    assert done is not None
    assert done.removed == ()
    assert remote.ids(MODEL) == [id]


def test_an_eviction_from_the_volume_tells_what_is_left(clients: Clients, remote: ObjectStore, tmp_path: Path) -> None:
    for number in range(2):
        push_snapshot(clients, publish(clients.volume, REVISIONS[number], {"m.gguf": bytes([number])}, tmp_path))
    clients.volume.promote(clients.volume.ids(MODEL)[1], reason="a test")
    age(clients.volume)
    (before,) = remote.holdings().values()
    assert before is not None
    assert len(before.snapshots) == 2
    evict(clients, keep_bytes=0)
    (after,) = remote.holdings().values()
    assert after is not None
    assert after.snapshots == set(clients.volume.ids(MODEL)) == {clients.volume.promoted(MODEL).default_id}


def test_without_s3_there_is_nothing_to_clean_up(clients: Clients) -> None:
    assert evict_remote(replace(clients, remote=None)) is None
