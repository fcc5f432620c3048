"""Benchmarks of a snapshot: each is kept beside the ones before, and the one that stands is never a worse one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from paddock.lifecycle import reports
from paddock.lifecycle.assess.validate import VALIDATION_REPORT, Validation
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run.stored_benchmarks import (
    BENCHMARK,
    KEPT,
    KEPT_OF_A_KIND,
    benchmark_history,
    read_benchmark,
    record_benchmark,
    report_name,
    share_benchmarks,
    surplus,
)
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.settings import Settings
from tests.support.benchmarks import DISTURBED, GPU_HOST, a_benchmark, a_load_test
from tests.support.stores import A, publish
from tests.support.tiny_hub import use_s3


def at(hour: int) -> str:
    return f"2026-05-01T{hour:02}:00:00+00:00"


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return connect(Settings(volume=tmp_path / "models"))


@pytest.fixture
def manifest(clients: Clients, tmp_path: Path) -> Manifest:
    clients.volume.prepare()
    return publish(clients.volume, A, {"m.gguf": b"weights"}, tmp_path)


RELIABLE = a_benchmark(measured_at=at(1))
LATER = a_benchmark(decode=90, measured_at=at(2))
TUNED = a_benchmark(decode=120, measured_at=at(3), parameters={"n_ctx": 4096, "n_threads": 4})
DISTURBED_LATER = a_benchmark(decode=40, measured_at=at(4), doubts=DISTURBED)
DISTURBED_ELSEWHERE = a_benchmark(decode=900, measured_at=at(5), doubts=DISTURBED, machine=GPU_HOST)
OF_OLD = a_benchmark(decode=70, measured_at=at(6), schema=2)
SHORT = a_benchmark(decode=130, measured_at=at(7), context_tokens=512)
LONG = a_benchmark(decode=60, measured_at=at(8), context_tokens=32_768)


@pytest.mark.parametrize(
    ("results", "stands"),
    [
        pytest.param([RELIABLE, LATER], LATER, id="the newer one"),
        pytest.param([RELIABLE, DISTURBED_LATER], RELIABLE, id="a reliable one before a disturbed one"),
        pytest.param([RELIABLE, DISTURBED_ELSEWHERE], RELIABLE, id="... of another machine"),
        pytest.param([RELIABLE, OF_OLD], RELIABLE, id="... and before one that was not judged"),
        pytest.param([DISTURBED_LATER, RELIABLE], RELIABLE, id="a reliable one after a disturbed one"),
        pytest.param([RELIABLE, SHORT], RELIABLE, id="the planned context before a shorter one"),
        pytest.param([RELIABLE, LONG], RELIABLE, id="... and before a longer one"),
        pytest.param([SHORT, DISTURBED_LATER], DISTURBED_LATER, id="... even where it was disturbed"),
        pytest.param([RELIABLE, TUNED], TUNED, id="other settings"),
        pytest.param([DISTURBED_LATER], DISTURBED_LATER, id="the only one"),
        pytest.param([RELIABLE, LATER, DISTURBED_LATER, SHORT, LONG], LATER, id="of many"),
    ],
)
def test_what_stands_is_the_best_whatever_the_order(
    clients: Clients, manifest: Manifest, results: list[Benchmark], stands: Benchmark
) -> None:
    for order in list(permutations(results))[:6]:
        for name in clients.volume.report_names(manifest.id):
            clients.volume.remove_report(manifest.id, name)
        for result in order:
            record_benchmark(clients, manifest, result)
        assert read_benchmark(clients, manifest) == stands
        assert benchmark_history(clients, manifest) == tuple(sorted(results, key=lambda one: one.measured_at or ""))


def test_nothing_stands_before_the_first(clients: Clients, manifest: Manifest) -> None:
    assert read_benchmark(clients, manifest) is None
    assert benchmark_history(clients, manifest) == ()


def test_the_context_that_was_validated_is_the_planned_one(clients: Clients, manifest: Manifest) -> None:
    record_benchmark(clients, manifest, RELIABLE)
    record_benchmark(clients, manifest, SHORT)
    validation = Validation(Verdict.ACCEPT, (), None, RELIABLE.memory, 512)
    reports.write(clients, manifest, VALIDATION_REPORT, validation.to_json())
    assert read_benchmark(clients, manifest) == SHORT


def test_a_result_of_other_files_does_not_count(clients: Clients, manifest: Manifest, tmp_path: Path) -> None:
    record_benchmark(clients, manifest, RELIABLE)
    other = publish(clients.volume, A, {"n.gguf": b"other"}, tmp_path, variant="Q4_K_M")  # type: ignore[arg-type] # a text is one
    for name in clients.volume.report_names(manifest.id):
        clients.volume.write_report(other.id, name, clients.volume.read_report(manifest.id, name) or "")
    assert read_benchmark(clients, other) is None


def test_a_load_test_that_is_added_later_belongs_to_the_same_result(clients: Clients, manifest: Manifest) -> None:
    record_benchmark(clients, manifest, RELIABLE)
    loaded = replace(RELIABLE, http=a_load_test([(1, 80.0)]))
    record_benchmark(clients, manifest, loaded)
    assert benchmark_history(clients, manifest) == (loaded,)


def test_a_report_from_before_there_was_a_history_is_the_first_of_it(clients: Clients, manifest: Manifest) -> None:
    reports.write(clients, manifest, BENCHMARK, RELIABLE.to_json())
    record_benchmark(clients, manifest, SHORT)
    assert benchmark_history(clients, manifest) == (RELIABLE, SHORT)
    assert read_benchmark(clients, manifest) == RELIABLE


def test_many_writers_lose_nothing(clients: Clients, manifest: Manifest) -> None:
    results = [a_benchmark(decode=float(number + 1), measured_at=at(number)) for number in range(KEPT_OF_A_KIND)]
    with ThreadPoolExecutor(len(results)) as writers:
        list(writers.map(lambda result: record_benchmark(clients, manifest, result), results))
    assert benchmark_history(clients, manifest) == tuple(results)
    assert read_benchmark(clients, manifest) == results[-1]


def name_of(number: int, *, machine: int = 0, context: int = 4096, reliable: bool = True) -> str:
    how = "reliable" if reliable else "disturbed"
    return f"benchmark-20260501T{number:06}Z-{machine:012x}-{context}-{how}-00000000.json"


def test_of_each_kind_the_newest_stay() -> None:
    bound = KEPT_OF_A_KIND
    names = [name_of(number) for number in range(bound + 2)]
    others = [name_of(0, machine=1), name_of(0, context=512), name_of(0, reliable=False), "audit.json", BENCHMARK]
    assert surplus([*others, *reversed(names)]) == set(names[:2])


def test_of_all_the_disturbed_go_first_and_then_the_oldest() -> None:
    reliable = [name_of(number, machine=number) for number in range(KEPT + 1)]
    disturbed = [name_of(number, machine=number, reliable=False) for number in range(1000, 1010)]
    assert surplus([*reliable, *disturbed]) == {reliable[0], *disturbed}
    assert surplus(reliable[1:]) == set()


def test_only_results_are_removed(clients: Clients, manifest: Manifest) -> None:
    foreign = ["audit.json", "benchmark-notes.json", "benchmark-20260501T000000Z-0-1-reliable-0.json"]
    for name in foreign:
        clients.volume.write_report(manifest.id, name, "mine")
    for number in range(KEPT_OF_A_KIND + 3):
        record_benchmark(clients, manifest, a_benchmark(decode=number + 1.0, measured_at=at(number)))
    left = clients.volume.report_names(manifest.id)
    assert set(foreign) < set(left)
    assert len(left) == len(foreign) + KEPT_OF_A_KIND + 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\x00", '{"report": 1}', '{"files": FILES, "report": {"results": [{}]}}'],
)
def test_a_report_that_is_none_is_left_out(clients: Clients, manifest: Manifest, text: str) -> None:
    record_benchmark(clients, manifest, RELIABLE)
    files = str({file.path: file.sha256 for file in manifest.files}).replace("'", '"')
    clients.volume.write_report(manifest.id, report_name(LATER), text.replace("FILES", files))
    assert benchmark_history(clients, manifest) == (RELIABLE,)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"measured_at": 5}, id="a number as time"),
        pytest.param({"parameters": {"n_ctx": "many"}}, id="a text as context"),
        pytest.param({"parameters": []}, id="a list as parameters"),
        pytest.param({"results": [{"n_prompt": 1, "n_gen": 0, "prefill_tok_per_s": "fast"}]}, id="a text as speed"),
        pytest.param({"machine": {}}, id="no machine"),
        pytest.param({"doubts": 7}, id="a number as doubts"),
    ],
)
def test_a_document_with_other_types_is_left_out(
    clients: Clients, manifest: Manifest, change: dict[str, object]
) -> None:
    record_benchmark(clients, manifest, RELIABLE)
    reports.write(clients, manifest, report_name(LATER), {**LATER.to_json(), **change})
    assert benchmark_history(clients, manifest) == (RELIABLE,)


def test_workers_share_their_results_and_none_replaces_a_better_one(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3, tmp_path.name)
    workers = []
    for name in ("one", "other"):
        monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / name))
        worker = connect()
        worker.volume.prepare()
        manifest = publish(worker.volume, A, {"m.gguf": b"weights"}, tmp_path)
        workers.append(worker)
    one, other = workers
    record_benchmark(one, manifest, RELIABLE)
    assert share_benchmarks(one, manifest) is None, "S3 does not have the snapshot"
    assert one.remote is not None
    publish(one.remote, A, {"m.gguf": b"weights"}, tmp_path)
    where = share_benchmarks(one, manifest)
    assert where is not None
    assert where.endswith(f"/{BENCHMARK}")
    record_benchmark(other, manifest, DISTURBED_LATER)
    record_benchmark(other, manifest, DISTURBED_ELSEWHERE)
    where = share_benchmarks(other, manifest)
    assert where is not None
    assert "disturbed" in where, "the result itself, not what stands"
    for worker in workers:
        assert benchmark_history(worker, manifest) == (RELIABLE, DISTURBED_LATER, DISTURBED_ELSEWHERE)
        assert read_benchmark(worker, manifest) == RELIABLE
    document = json.loads(one.remote.read_report(manifest.id, BENCHMARK) or "")
    assert Benchmark.from_json(document["report"]) == RELIABLE


def test_a_result_is_recorded_while_s3_does_not_answer(clients: Clients, manifest: Manifest) -> None:
    settings = replace(clients.settings, s3_uri="s3://bucket/prefix")
    without_a_server = connect(settings)
    record_benchmark(without_a_server, manifest, RELIABLE)
    record_benchmark(without_a_server, manifest, LATER)
    assert read_benchmark(clients, manifest) == LATER
