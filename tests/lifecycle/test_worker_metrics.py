"""`paddock metrics`: what runs did to the volume is counted, and read fast and safely whatever lies there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from paddock.errors import CorruptFile, HubUnavailable, ModelNotFound, TransferInterrupted
from paddock.lifecycle.acquire.cache import cache
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.counts import counting_failures, counting_received
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import PlainRunner, step
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.last_runs import RefreshRecord, ScrubRecord, last_refresh, last_scrub, store_refresh
from paddock.lifecycle.upkeep.scrub import scrub, scrub_remote
from paddock.lifecycle.upkeep.verify import verify_volume
from paddock.lifecycle.upkeep.worker_metrics import read_worker_metrics
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Reference
from paddock.transfer.progress import Progress
from paddock.version import VERSION
from tests.support.aged import age
from tests.support.damage import flip
from tests.support.program import Paddock, paddock
from tests.support.prometheus_text import read_metrics
from tests.support.stores import publish
from tests.support.tiny_hub import MODEL, use_s3

__all__ = ["paddock"]

RECORDS = ("last-scrub-volume", "last-scrub-s3", "last-refresh")


def values(clients: Clients) -> dict[tuple[str, ...], float]:
    """The value of each sample by its name and the values of its labels."""
    families = read_metrics(read_worker_metrics(clients).text)
    samples = [sample for family in families.values() for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_a_pull_and_what_is_stored_are_in_the_metrics(clients: Clients) -> None:
    pulled = pull(clients, Reference(MODEL))
    found = values(clients)
    assert found["paddock_received_bytes_total", "hub"] == pulled.transferred_bytes > 0
    assert found["paddock_received_bytes_total", "s3"] == 0
    assert found["paddock_received_seconds_total", "hub"] > 0
    assert found["paddock_volume_snapshots",] == 1
    assert found["paddock_volume_stored_bytes",] == clients.volume.blob_bytes() > 0
    assert 0 < found["paddock_volume_free_bytes",] < found["paddock_volume_size_bytes",]
    assert found["paddock_volume_quarantined_files",] == 0
    assert found["paddock_worker_info", VERSION, clients.volume.usage.worker] == 1
    assert found["paddock_worker_unread_groups",] == 0
    assert not [name for name, *_ in found if name.startswith(("paddock_scrub", "paddock_refresh"))]


def test_a_restore_is_received_from_s3(
    clients: Clients, pulled: Manifest, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3, "metrics")
    cache(PlainRunner(connect()), pulled.id.reference)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    second = connect()
    restored = restore(PlainRunner(second), pulled.id.reference)
    found = values(second)
    assert found["paddock_received_bytes_total", "s3"] == restored.transferred_bytes > 0
    assert found["paddock_received_bytes_total", "hub"] == 0
    scrub_remote(second)
    assert values(second)["paddock_scrub_damaged_files", "s3"] == 0


def test_bytes_of_a_transfer_that_is_interrupted_are_counted(clients: Clients) -> None:
    clients.volume.prepare()
    seen: list[Progress] = []
    with suppress(TransferInterrupted), counting_received(clients, "hub", seen.append) as on_progress:
        for received_bytes in (1000, 3000):
            on_progress(Progress("m.gguf", 2000, 9000, received_bytes, 0, 1.0))
        raise TransferInterrupted("the connection was closed")
    assert [progress.transferred_bytes for progress in seen] == [1000, 3000]
    assert values(clients)["paddock_received_bytes_total", "hub"] == 3000


def test_a_model_that_the_hub_lacks_is_a_failure_of_that_kind(clients: Clients) -> None:
    clients.volume.prepare()
    with pytest.raises(ModelNotFound):
        pull(clients, Reference(ModelName.parse("org/none")))
    failures = {name[1]: value for name, value in values(clients).items() if name[0] == "paddock_failures_total"}
    assert {name for name, value in failures.items() if value} == {"ModelNotFound"}
    assert failures["ModelNotFound"] == 1
    assert failures["HubUnavailable"] == 0


@step(Kind.HUB, "ask")
def ask(clients: Clients) -> None:
    raise HubUnavailable("it is busy")


@step(Kind.HUB, "ask-within")
def ask_within(clients: Clients) -> None:
    PlainRunner(clients).run(ask)


def test_each_failed_try_counts_once_also_through_two_steps(clients: Clients) -> None:
    clients.volume.prepare()
    with pytest.raises(HubUnavailable):
        PlainRunner(clients, retry=True, sleep=lambda _: None).run(ask_within)
    assert values(clients)["paddock_failures_total", "HubUnavailable"] == 4


def test_an_error_of_a_derived_class_counts_as_its_base(clients: Clients) -> None:
    class OddlyCorrupt(CorruptFile):
        pass

    clients.volume.prepare()
    with suppress(OddlyCorrupt), counting_failures(clients):
        raise OddlyCorrupt("it is odd")
    assert values(clients)["paddock_failures_total", "CorruptFile"] == 1


def test_nothing_is_counted_and_no_volume_is_made_where_there_is_none(clients: Clients) -> None:
    with pytest.raises(HubUnavailable):
        PlainRunner(clients).run(ask)
    assert not clients.volume.root.exists()


def test_evictions_are_counted(clients: Clients) -> None:
    clients.volume.prepare()
    for number in range(2):
        publish(clients.volume, Revision(f"{number:040x}"), {"m.gguf": bytes([number]) * 1000}, Path())
    age(clients.volume)
    done = evict(clients, keep_bytes=0)
    found = values(clients)
    assert found["paddock_evicted_snapshots_total", "volume"] == len(done.removed) == 2
    assert found["paddock_evicted_bytes_total", "volume"] == done.freed_bytes


def test_the_last_scrub_is_in_the_metrics_with_its_damage(
    clients: Clients, pulled: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time() - 1
    model = max(pulled.files, key=lambda file: file.size)
    flip(clients.volume.blob_path(model.sha256), 100)
    scrub(clients, repair=False)
    found = values(clients)
    assert (found["paddock_scrub_damaged_files", "volume"], found["paddock_scrub_repaired_files", "volume"]) == (1, 0)
    assert found["paddock_volume_quarantined_files",] == 1
    assert found["paddock_scrub_read_bytes", "volume"] > 0
    assert began <= found["paddock_scrub_end_timestamp_seconds", "volume"] <= time.time()
    assert found["paddock_scrub_complete", "volume"] == 1

    verify_volume(clients, repair_damage=True)  # what a machine without Prefect runs
    found = values(clients)
    assert (found["paddock_scrub_damaged_files", "volume"], found["paddock_scrub_repaired_files", "volume"]) == (1, 1)
    assert found["paddock_volume_quarantined_files",] == 0
    assert found["paddock_received_bytes_total", "hub"] > 0
    scrub(clients)
    assert values(clients)["paddock_scrub_damaged_files", "volume"] == 0


def test_the_last_refresh_is_in_the_metrics_by_outcome(clients: Clients) -> None:
    clients.volume.prepare()
    store_refresh(clients, RefreshRecord({"unchanged": 3, "held back": 1, "an outcome of old": 5}, failures=1))
    found = values(clients)
    entries = {name[1]: value for name, value in found.items() if name[0] == "paddock_refresh_entries" and value}
    assert entries == {"unchanged": 3, "held back": 1}
    assert found["paddock_refresh_required_failures",] == 1
    assert found["paddock_refresh_end_timestamp_seconds",] == pytest.approx(time.time(), abs=60)


def test_records_are_read_as_they_were_written() -> None:
    at = datetime(2026, 5, 1, 3, tzinfo=UTC)
    scrubbed = ScrubRecord(read_bytes=5, seconds=1.5, damaged=2, repaired=1, complete=False, at=at)
    assert ScrubRecord.from_json(json.loads(json.dumps(scrubbed.to_json()))) == scrubbed
    refreshed = RefreshRecord({"held back": 2}, failures=1, at=at)
    assert RefreshRecord.from_json(json.loads(json.dumps(refreshed.to_json()))) == refreshed


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{}", id="nothing"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"at": "2026-05-01T00:00:00+00:00", "outcomes": [1], "failures": 0}', id="a-list"),
        pytest.param(
            b'{"at": "2026-05-01T00:00:00+00:00", "seconds": "x", "read_bytes": 1, "damaged": 1, "repaired": 1,'
            b' "complete": 7, "outcomes": {"unchanged": -4}, "failures": 0}',
            id="types",
        ),
        pytest.param(
            b'{"at": "2199-05-01T00:00:00+00:00", "seconds": 1, "read_bytes": 1, "damaged": 1, "repaired": 1,'
            b' "complete": true, "outcomes": {}, "failures": 0}',
            id="the-future",
        ),
        pytest.param(None, id="a-pipe"),
    ],
)
def test_a_planted_record_counts_as_none(clients: Clients, content: bytes | None) -> None:
    clients.volume.prepare()
    notes = clients.volume.root / ".paddock" / "reports" / "volume"
    notes.mkdir(parents=True)
    for name in RECORDS:
        path = notes / f"{name}.json"
        if content is None:
            os.mkfifo(path)
        else:
            path.write_bytes(content)
    assert (last_scrub(clients, "volume"), last_scrub(clients, "s3"), last_refresh(clients)) == (None, None, None)
    assert not [name for name, *_ in values(clients) if name.startswith(("paddock_scrub", "paddock_refresh"))]


@contextmanager
def without_rights(directory: Path) -> Iterator[None]:
    """Take this process's right to look into a directory. Root has it whatever the mode is, and becomes nobody."""
    is_root = os.geteuid() == 0
    directory.chmod(0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        directory.chmod(0o755)


def test_what_cannot_be_read_is_left_out_and_counted(clients: Clients) -> None:
    clients.volume.prepare()
    all_names = set(read_metrics(read_worker_metrics(clients).text))
    with without_rights(clients.volume.root):
        text = read_worker_metrics(clients).text
    assert set(read_metrics(text)) == all_names
    samples = [sample for family in read_metrics(text).values() for sample in family.samples]
    assert [sample.value for sample in samples if sample.name == "paddock_worker_unread_groups"] == [4]
    assert not [sample for sample in samples if sample.name.startswith(("paddock_volume_stored", "paddock_received"))]


def test_the_command_prints_the_text_and_writes_it_to_a_file(
    clients: Clients, paddock: Paddock, tmp_path: Path
) -> None:
    clients.volume.prepare()
    printed = paddock("metrics")
    assert (printed.status, printed.stderr) == (0, "")
    assert "paddock_volume_snapshots" in read_metrics(printed.stdout)
    target = tmp_path / "collected" / "paddock.prom"
    target.parent.mkdir()
    target.write_text("before")
    done = paddock("metrics", "--output", str(target))
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert read_metrics(target.read_text()).keys() == read_metrics(printed.stdout).keys()
    assert [path.name for path in target.parent.iterdir()] == ["paddock.prom"]
    value = paddock("metrics", "--json").json
    assert {one["name"] for one in value["metrics"]} == read_metrics(printed.stdout).keys()


@pytest.mark.parametrize("target", ["none/paddock.prom", "."], ids=["no-directory", "a-directory"])
def test_a_file_that_cannot_be_written_is_an_error_with_its_name(
    clients: Clients, paddock: Paddock, tmp_path: Path, target: str
) -> None:
    clients.volume.prepare()
    done = paddock("metrics", "--output", str(tmp_path / target))
    assert done.status == 1
    assert "cannot be written" in done.stderr
    assert not list(tmp_path.glob(".staging-*"))


def test_without_a_volume_the_command_fails_and_leaves_the_file(
    clients: Clients, paddock: Paddock, tmp_path: Path
) -> None:
    target = tmp_path / "paddock.prom"
    target.write_text("before")
    done = paddock("metrics", "--output", str(target))
    assert done.status == 1
    assert "there is no" in done.stderr
    assert target.read_text() == "before"


def test_reading_takes_no_longer_for_many_usage_records_and_reports(clients: Clients) -> None:
    clients.volume.prepare()
    month = clients.volume.root / ".paddock" / "usage" / "2026-04.jsonl"
    month.parent.mkdir()
    with month.open("wb") as file:
        file.truncate(1 << 40)  # a reader of it would read 32 MiB
    began = time.process_time()
    values(clients)
    assert time.process_time() - began < 2


def test_times_are_not_in_the_future_of_this_machine_by_more_than_a_day(clients: Clients) -> None:
    clients.volume.prepare()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    store_refresh(clients, RefreshRecord({}, 0, at=soon))
    assert last_refresh(clients) == RefreshRecord({}, 0, at=soon)
