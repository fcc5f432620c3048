"""`gc` on a volume: it does what its dry run printed, refuses what is needed, and looks again before each removal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.errors import BadCatalog, BadSetting, InUse, NotOnVolume, StoreUnavailable
from paddock.hub import Hub
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.apply import apply
from paddock.lifecycle.eviction.copies import verified_copies, with_copies
from paddock.lifecycle.eviction.facts import gather
from paddock.lifecycle.eviction.plan import plan
from paddock.lifecycle.upkeep.evict import evict
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId
from paddock.model.units import parse_budget
from paddock.settings import Settings
from paddock.store.copying import push
from paddock.store.remote import ObjectStore, StoredObject
from paddock.store.volume import ORPHAN_AGE_S, Volume
from tests.support.aged import DAY_S, age, use
from tests.support.damage import flip
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.stores import MODEL, publish

REVISIONS = [Revision(f"{number:040x}") for number in range(6)]


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """A volume and a remote store on a plain directory; nothing asks the Hub."""
    settings = Settings(volume=tmp_path / "models", keep_revisions=0)
    volume = Volume(settings.volume)
    volume.prepare()
    remote = ObjectStore(DirectoryObjects(tmp_path / "bucket", label="directory://test"))
    return Clients(settings, Hub(settings), volume, remote)


def put(clients: Clients, number: int, size: int = 1000, *, model: ModelName = MODEL) -> SnapshotId:
    """A snapshot with a file of its own of so many bytes, and one of 10 bytes that all share."""
    contents = {"m.gguf": bytes([number]) * size, "config.json": b"0123456789"}
    manifest = publish(clients.volume, REVISIONS[number], contents, Path(), model=model, age_s=number)
    return manifest.id


def copy(clients: Clients, id: SnapshotId) -> None:
    manifest = clients.volume.snapshot(id)
    assert manifest is not None
    assert clients.remote is not None
    push(clients.volume, clients.remote, manifest)


def left(clients: Clients) -> list[SnapshotId]:
    return [manifest.id for manifest in clients.volume.snapshots()]


def test_gc_does_exactly_what_its_dry_run_printed_twice(clients: Clients) -> None:
    ids = [put(clients, number, 1000 * (number + 1)) for number in range(5)]
    clients.volume.promote(ids[3], reason="a test")
    clients.volume.promote(ids[4], reason="a test")
    copy(clients, ids[1])
    age(clients.volume)
    use(clients.volume, ids[0], ago_s=3 * DAY_S)
    use(clients.volume, ids[2], ago_s=9 * DAY_S)
    printed = [evict(clients, keep_bytes=10_500, dry_run=True).to_json() for _ in range(2)]
    assert printed[0] == printed[1]
    before = clients.volume.blob_bytes()
    done = evict(clients, keep_bytes=10_500)
    assert done.to_json() == {**printed[0], "dry_run": False}
    assert before - clients.volume.blob_bytes() == done.freed_bytes
    assert [row.id for row in done.removed] == [ids[1], ids[2]]
    assert {row.id: row.reason for row in done.kept} == {
        ids[0]: "the budget is kept without its removal",
        ids[3]: "the target of a rollback",
        ids[4]: "the model's default",
    }
    assert done.over_bytes == 0
    assert left(clients) == [ids[0], ids[3], ids[4]]


def test_a_budget_that_cannot_be_kept_is_said_with_the_reasons(clients: Clients) -> None:
    ids = [put(clients, number) for number in range(4)]
    clients.volume.promote(ids[0], reason="a test")
    clients.volume.pins.add(ids[1])
    age(clients.volume)
    with clients.volume.lease(ids[2]):
        done = evict(clients, keep_bytes=0)
    assert [row.id for row in done.removed] == [ids[3]]
    assert done.over_bytes == done.used_bytes == 3010
    assert done.line.endswith("2.9 KiB over the budget, since nothing else may be removed")
    assert [row.reason.partition(" by ")[0] for row in done.kept] == ["the model's default", "pinned", "in use"]


def test_what_is_new_is_kept_and_so_are_blobs_that_a_transfer_renewed(clients: Clients) -> None:
    ids = [put(clients, number) for number in range(3)]
    age(clients.volume, ids[0], ids[1])
    manifest = clients.volume.snapshot(ids[1])
    assert manifest is not None
    (weights,) = manifest.weights
    clients.volume.renew_blob(weights)
    done = evict(clients, keep_bytes=0)
    assert [row.id for row in done.removed] == [ids[0]]
    assert [row.reason.partition(":")[0] for row in done.kept] == [
        "its removal frees nothing",
        "published less than an hour ago",
    ]
    assert clients.volume.evict(ids[1]) == 0
    assert clients.volume.has_blob(weights, 1000)


def test_what_is_linked_elsewhere_or_being_fetched_frees_nothing_or_stays(clients: Clients, tmp_path: Path) -> None:
    linked, fetched = (put(clients, number) for number in range(2))
    age(clients.volume)
    manifests = [clients.volume.snapshot(id) for id in (linked, fetched)]
    weights = [next(iter(manifest.weights)) for manifest in manifests if manifest is not None]
    os.link(clients.volume.blob_path(weights[0]), tmp_path / "elsewhere")
    partial = clients.volume.partial / weights[1] / "token"
    partial.mkdir(parents=True)
    (partial / "data").write_bytes(b"")
    done = evict(clients, keep_bytes=0)
    assert done.removed == ()
    assert [row.reason.partition(":")[0] for row in done.kept] == [
        "its removal frees nothing",
        "its files are being fetched",
    ]
    os.utime(partial / "data", (0, 0))
    (tmp_path / "elsewhere").unlink()
    assert [row.id for row in evict(clients, keep_bytes=0).removed] == [linked, fetched]


def test_retention_and_old_orphans_need_no_budget(clients: Clients) -> None:
    clients = replace(clients, settings=replace(clients.settings, keep_revisions=2))
    ids = [put(clients, number) for number in range(4)]
    orphans = [clients.volume.add_bytes(content) for content in (b"old orphan", b"new orphan")]
    age(clients.volume)
    os.utime(clients.volume.blob_path(orphans[0]), (time.time() - ORPHAN_AGE_S - 1,) * 2)
    done = evict(clients)
    assert [row.id for row in done.removed] == ids[:2]
    assert (done.orphans, done.orphan_bytes, done.freed_bytes) == (1, 10, 2010)
    assert [row.reason for row in done.kept] == ["no budget is set"] * 2
    assert clients.volume.has_blob(orphans[1], 10)


@pytest.mark.parametrize(
    ("text", "budget"),
    [("500", 500), ("2KiB", 2048), ("1.5 MB", 1_500_000), ("80%", 800), ("12.5 %", 125), ("0%", 0), ("100%", 1000)],
)
def test_a_budget_is_a_size_or_a_share(text: str, budget: int) -> None:
    assert parse_budget(text, of_bytes=1000) == budget
    assert Settings(keep_bytes=text).keep_bytes == text


@pytest.mark.parametrize("text", ["101%", "-1", "x%", "80 percent", "%", "1e3"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(BadSetting):
        parse_budget(text, of_bytes=1000)
    with pytest.raises(ValueError, match="expected a size"):
        Settings(keep_bytes=text)


def test_a_share_is_of_the_disk_and_set_in_the_environment(clients: Clients) -> None:
    clients = replace(clients, settings=replace(clients.settings, keep_bytes="50%"))
    assert evict(clients, dry_run=True).budget_bytes == clients.volume.disk.total_bytes() // 2
    assert evict(clients, keep_bytes=7, dry_run=True).budget_bytes == 7


def _promote(clients: Clients, id: SnapshotId) -> None:
    clients.volume.promote(id, reason="meanwhile")


def _pin(clients: Clients, id: SnapshotId) -> None:
    clients.volume.pins.add(id)


def _use(clients: Clients, id: SnapshotId) -> None:
    clients.volume.usage.touch(id)


def _publish_again(clients: Clients, id: SnapshotId) -> None:
    manifest = clients.volume.snapshot(id)
    assert manifest is not None
    clients.volume.publish(manifest)


def _drop_copy(clients: Clients, id: SnapshotId) -> None:
    manifest = clients.volume.snapshot(id)
    assert manifest is not None
    assert clients.remote is not None
    (weights,) = manifest.weights
    clients.remote.drop_blob(weights)


def _remove(clients: Clients, id: SnapshotId) -> None:
    clients.volume.remove(id.model, variant=id.variant, revision=id.revision)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_promote, "the model's default"),
        (_pin, "pinned"),
        (_use, "it was used just now"),
        (_publish_again, "published less than an hour ago"),
        (_drop_copy, "its copy in S3 is gone, or not verified any more"),
        (_remove, "another process removed it"),
    ],
    ids=["promoted", "pinned", "used", "published again", "copy gone", "removed"],
)
def test_what_changed_since_the_plan_is_skipped_and_said(
    clients: Clients, change: Callable[[Clients, SnapshotId], None], reason: str
) -> None:
    ids = [put(clients, number) for number in range(2)]
    for id in ids:
        copy(clients, id)
    age(clients.volume)
    planned = plan(with_copies(clients, gather(clients)), budget_bytes=0)
    assert [removal.snapshot.id for removal in planned.remove] == ids
    change(clients, ids[0])
    applied = apply(clients, planned)
    assert [(row.id, row.reason) for row in applied.skipped] == [(ids[0], reason)]
    assert [row.id for row in applied.removed] == [ids[1]]


def test_the_volume_itself_refuses_to_evict_what_is_needed(clients: Clients) -> None:
    first, second, third, fourth = (put(clients, number) for number in range(4))
    age(clients.volume)
    for id in (first, second):
        clients.volume.promote(id, reason="a test")
    clients.volume.pins.add(third)
    for id, message in ((first, "target of a rollback"), (second, "is promoted"), (third, "is pinned")):
        with pytest.raises(InUse, match=message):
            clients.volume.evict(id)
    with clients.volume.lease(fourth), pytest.raises(InUse, match="in use by"):
        clients.volume.evict(fourth)
    age(clients.volume)
    assert clients.volume.evict(fourth) == 1000
    with pytest.raises(NotOnVolume):
        clients.volume.evict(fourth)
    assert left(clients) == [first, second, third]


def test_a_copy_counts_only_if_it_was_verified_there_and_is_still_the_same(clients: Clients, tmp_path: Path) -> None:
    ids = [put(clients, number) for number in range(3)]
    assert clients.remote is not None
    copy(clients, ids[0])
    assert verified_copies(clients, ids) == {ids[0]}
    # Another worker sent the same blobs before: this one has not read them.
    manifest = clients.volume.snapshot(ids[1])
    assert manifest is not None
    for file in manifest.files:
        path = clients.volume.blob_path(file.sha256)
        clients.remote.put_blob(path, file, segment_bytes=manifest.segment_bytes)
    copy(clients, ids[1])
    assert verified_copies(clients, ids) == {ids[0]}
    first = clients.volume.snapshot(ids[0])
    assert first is not None
    (weights,) = first.weights
    flip(tmp_path / "bucket" / "blobs" / "sha256" / weights, 5)
    assert verified_copies(clients, ids) == set()


class Unreachable(DirectoryObjects):
    """An object service that answers nothing."""

    def get(self, key: str) -> StoredObject | None:
        raise StoreUnavailable(f"{self.label} does not answer for {key}")


def test_where_s3_does_not_answer_no_copy_counts_and_that_is_said(clients: Clients, tmp_path: Path) -> None:
    ids = [put(clients, number) for number in range(2)]
    copy(clients, ids[1])
    age(clients.volume)
    assert [row.id for row in evict(clients, keep_bytes=1500, dry_run=True).removed] == [ids[1]]
    unreachable = ObjectStore(Unreachable(tmp_path / "bucket", label="directory://test"))
    done = evict(replace(clients, remote=unreachable), keep_bytes=1500)
    assert [row.id for row in done.removed] == [ids[0]]
    assert "which snapshots have a copy in S3 is not known: directory://test does not answer" in done.notes[0]


def test_the_result_is_one_json_object(clients: Clients) -> None:
    put(clients, 0)
    value = json.loads(json.dumps(evict(clients, dry_run=True).to_json()))
    assert set(value) >= {"removed", "freed_bytes", "kept", "over_bytes", "beside"}
    assert value["beside"] == {"partial": 0, "quarantine": 0, "trash": 0}


def test_the_catalog_keeps_the_newest_of_what_it_wants(clients: Clients, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"models:\n  - model: {MODEL}\n    variant: q8_0\n")
    clients = replace(clients, settings=replace(clients.settings, catalog=catalog))
    other = ModelName.parse("org/other")
    ids = [put(clients, 0), put(clients, 1, model=other), put(clients, 2)]
    age(clients.volume)
    done = evict(clients, keep_bytes=0)
    assert [row.id for row in done.removed] == [ids[0], ids[1]]
    assert [(row.id, row.reason) for row in done.kept] == [(ids[2], "wanted by the catalog")]


def test_nothing_is_evicted_while_the_catalog_cannot_be_read(clients: Clients, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("models:\n  - modle: org/name\n")
    clients = replace(clients, settings=replace(clients.settings, catalog=catalog))
    id = put(clients, 0)
    age(clients.volume)
    with pytest.raises(BadCatalog, match=r"catalog.yaml.*line 2"):
        evict(clients, keep_bytes=0)
    assert left(clients) == [id]
