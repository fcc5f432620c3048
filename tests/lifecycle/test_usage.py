"""Usage summed up for people: by snapshot, model, worker and day, of one volume and of a fleet that shares S3."""

from __future__ import annotations

import csv
import io
import re
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.usage import UsageBy, sum_up_usage, summarize_usage
from paddock.lifecycle.uses import SHARING, record_use, share_usage, timed_use
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.settings import Settings
from paddock.store.usage import Usage
from tests.support.program import Paddock, paddock
from tests.support.stores import MODEL, Q4, A, B, S3Store, id_of, publish
from tests.support.tiny_hub import use_s3

__all__ = ["paddock"]

NOW = datetime.now(UTC).replace(microsecond=0)
SERVED = Usage(requests=3, prompt_tokens=20, completion_tokens=10, uses=1, seconds=3600.0)
OTHER = ModelName.parse("other/model")
Connect = Callable[..., Clients]


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make the clients of a worker, without S3 unless it is given."""
    monkeypatch.delenv("PADDOCK_S3_URI", raising=False)

    def make(worker: str = "gpu-7", *, volume: str = "models", s3: S3Server | None = None) -> Clients:
        if s3 is not None:
            use_s3(monkeypatch, s3, tmp_path.name)
        monkeypatch.setenv("PADDOCK_WORKER", worker)
        monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / volume))
        clients = connect()
        clients.volume.prepare()
        return clients

    return make


@pytest.fixture
def used(connected: Connect, tmp_path: Path) -> Clients:
    """A volume with one snapshot of three that were used, by two workers on two days."""
    clients = connected()
    publish(clients.volume, A, {"m.gguf": b"a"}, tmp_path)
    usage = clients.volume.usage
    usage.add(id_of(A), "serve", SERVED, at=NOW - timedelta(days=1))
    usage.add(id_of(A), "benchmark", Usage(uses=1, seconds=42), at=NOW)
    usage.add(id_of(B, Q4), "restore", Usage(uses=1, seconds=2), at=NOW - timedelta(hours=30))
    connected("gpu-8").volume.usage.add(id_of(A, model=OTHER), "serve", SERVED, at=NOW - timedelta(hours=28))
    return clients


def test_usage_is_printed_for_people(used: Clients, paddock: Paddock) -> None:
    lines = paddock("usage").stdout.splitlines()
    assert lines[0].split() == [
        "model",
        "variant",
        "revision",
        "uses",
        "time",
        "requests",
        "tokens",
        "first",
        "last",
        "by",
    ]
    assert re.split(" {2,}", lines[1].strip())[:7] == [
        *("org/name", "Q8_0", "aaaaaaaa", "1 served, 1 benchmarked", "1 h 00 min", "3", "30")
    ]
    assert ["(removed)" in line for line in lines[1:4]] == [False, True, True]
    assert lines[4].startswith("3 snapshots, 4 uses, 2 h 00 min; 6 requests, 60 tokens; the volume ")


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("snapshot", [("org/name", "Q8_0", A), ("other/model", "Q8_0", A), ("org/name", "Q4_K_M", B)]),
        ("model", [("org/name",), ("other/model",)]),
        ("worker", [("gpu-7",), ("gpu-8",)]),
    ],
)
def test_usage_is_summed_by_what_was_used_last(used: Clients, by: UsageBy, labels: list[tuple[str, ...]]) -> None:
    summary = summarize_usage(used, by=by)
    assert [tuple(line.labels.values()) for line in summary.lines] == labels
    assert sum(line.total.usage.uses for line in summary.lines) == summary.total.usage.uses == 4


def test_usage_by_day_is_in_order(used: Clients) -> None:
    days = [line.labels["day"] for line in summarize_usage(used, by="day").lines]
    assert days == sorted(days)
    assert days[-1] == NOW.date().isoformat()


@pytest.mark.parametrize(
    ("model", "uses"),
    [
        ("org/name", 3),
        ("ORG/Name", 3),
        ("org/name:q8_0", 2),
        (f"org/name@{B[:8]}", 1),
        (f"org/name@{B}", 1),
        ("org/name:Q5_K_M", 0),
        ("no/such", 0),
    ],
)
def test_usage_of_one_model_is_found_also_if_it_was_removed(
    used: Clients, paddock: Paddock, model: str, uses: int
) -> None:
    result = paddock("usage", model, "--json")
    assert (result.status, result.json["total"]["uses"]) == (0, uses)


def test_csv_and_json_say_the_same(used: Clients, paddock: Paddock) -> None:
    value = paddock("usage", "--json").json
    table = list(csv.DictReader(io.StringIO(paddock("usage", "--csv").stdout)))
    assert [
        (row["model"], int(row["uses"]), float(row["seconds"]), float(row["benchmark_seconds"]), row["workers"])
        for row in table
    ] == [
        (row["model"], row["uses"], row["seconds"], row["kinds"]["benchmark"]["seconds"], " ".join(row["workers"]))
        for row in value["usage"]
    ]
    assert [row["removed"] for row in table] == ["", "yes", "yes"]
    assert table[0]["last"] == NOW.isoformat()


def test_without_a_use_there_is_a_line_and_a_header(connected: Connect, paddock: Paddock) -> None:
    connected()
    assert paddock("usage").stdout.startswith("no use is recorded on the volume ")
    assert paddock("usage", "--json").json["usage"] == []
    assert paddock("usage", "--by", "day", "--csv").stdout.startswith("day,requests,")
    both = paddock("usage", "--csv", "--json")
    assert (both.status, both.json["error"]) == (3, "wrong-usage")
    assert paddock("usage", "--s3", "--json").json["error"] == "bad-setting"


def test_ls_counts_all_kinds_of_use(used: Clients, paddock: Paddock) -> None:
    (row,) = paddock("ls", "--json").json["models"]
    assert (row["uses"], row["requests"]) == (2, 3)
    assert datetime.fromisoformat(row["last_used"]) >= NOW
    header, line, _ = paddock("ls").stdout.splitlines()
    assert "uses" in header.split()
    assert line.split()[-1] == "2"


def test_a_use_that_fails_is_recorded_too(connected: Connect) -> None:
    clients = connected()
    with pytest.raises(RuntimeError), timed_use(clients, id_of(A), "tune"):
        raise RuntimeError
    (row,) = clients.volume.usage.rows()
    assert (row.kind, row.usage.uses, row.worker) == ("tune", 1, "gpu-7")


def test_a_fleet_with_volumes_of_their_own_is_summed_up_from_s3(
    connected: Connect, s3: S3Server, paddock: Paddock, tmp_path: Path
) -> None:
    one = connected("gpu-7", volume="one", s3=s3)
    publish(one.volume, A, {"m.gguf": b"a"}, tmp_path)
    record_use(one, id_of(A), "serve", SERVED)
    assert paddock("cache", str(id_of(A))).status == 0  # sends the usage too
    two = connected("gpu-8", volume="two", s3=s3)
    for _ in range(3):
        record_use(two, id_of(A), "serve", SERVED)
        share_usage(two)  # each replaces the object of before
    same_worker = connected("gpu-8", volume="three", s3=s3)
    record_use(same_worker, id_of(B), "restore", Usage(uses=1, seconds=5))
    assert sum_up_usage(same_worker).total.usage == Usage(12, 80, 40, 5, 14405.0)
    value = paddock("usage", str(MODEL), "--s3", "--by", "worker", "--json").json
    assert {row["worker"]: row["uses"] for row in value["usage"]} == {"gpu-7": 1, "gpu-8": 4}
    assert value["where"].startswith("s3://")
    (listed,) = paddock("ls", "--s3", "--json").json["models"]
    assert (listed["uses"], listed["requests"]) == (4, 12)
    assert summarize_usage(two, wanted=Reference(MODEL)).total.usage.uses == 3


def test_objects_that_are_no_rows_are_left_out(connected: Connect, s3: S3Server) -> None:
    clients = connected(s3=s3)
    record_use(clients, id_of(A), "serve", SERVED)
    share_usage(clients)
    store = S3Store.of(clients)
    for key in ("usage/evil.jsonl", "usage/a/b/c.jsonl", "usage/gpu-9/x.jsonl"):
        store.objects.put(key, b"[" * 100_000 + b'\n{"worker": 1}\n\xff\x00')
    assert store.usage() == clients.volume.usage.rows()


def test_an_s3_that_is_down_costs_a_line_in_the_log(
    connected: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        port = refusing.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    clients = connect(Settings(volume=tmp_path, s3_uri="s3://bucket/prefix"))
    record_use(clients, id_of(A), "serve", SERVED)
    assert sum_up_usage(clients).total.usage == SERVED
    assert "the usage was not sent to s3://bucket/prefix: " in caplog.text
    assert "the usage of other workers is not known" in caplog.text
    with socket.create_server(("127.0.0.1", port)):  # it never answers
        share_usage(clients, wait_s=0.05)
    assert "it has not answered for 0.05 s" in caplog.text
    for thread in threading.enumerate():
        if thread.name == SHARING:
            thread.join(10)


def test_processes_of_one_worker_that_send_at_once_leave_all_in_s3(connected: Connect, s3: S3Server) -> None:
    workers = [connected(s3=s3) for _ in range(4)]

    def work(clients: Clients) -> None:
        for _ in range(3):
            record_use(clients, id_of(A), "serve", SERVED)
            share_usage(clients)

    threads = [threading.Thread(target=work, args=(clients,)) for clients in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert summarize_usage(workers[0], in_remote=True).total.usage.uses == 12
