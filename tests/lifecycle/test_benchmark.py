"""Benchmark reports: written, shared with workers on another volume, and read back, the newest one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.lifecycle import dossier, reports
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run import benchmark
from paddock.measure.benchmark import Benchmark
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.model.reference import Reference
from paddock.store.copying import push
from tests.support.tiny_hub import MODEL, use_s3


@pytest.fixture
def workers(
    clients: Clients, hub: HubService, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Clients, Clients]:
    """Two with a volume each and one S3, which has the model."""
    use_s3(monkeypatch, s3, tmp_path.name)
    one = connect()
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "another"))
    other = connect()
    manifest = pull(one, Reference(MODEL)).manifest
    pull(other, Reference(MODEL))
    assert one.remote is not None
    push(one.volume, one.remote, manifest)
    return one, other


def test_a_shared_report_is_read_by_a_worker_with_another_volume(workers: tuple[Clients, Clients]) -> None:
    gpu, io = workers
    manifest = pull(gpu, Reference(MODEL)).manifest
    measured = benchmark.benchmark(gpu, manifest, 128)
    assert benchmark.read_benchmark(io, manifest) is None
    where = reports.share(gpu, manifest, benchmark.BENCHMARK)
    assert where is not None
    assert where.startswith("s3://")
    assert benchmark.read_benchmark(io, manifest) == measured
    assert "## Benchmark" in dossier.compose(io, manifest)
    assert "Not measured yet" not in dossier.compose(io, manifest)


def test_the_newer_of_two_reports_is_read(workers: tuple[Clients, Clients]) -> None:
    gpu, io = workers
    manifest = pull(gpu, Reference(MODEL)).manifest
    old = benchmark.benchmark(io, manifest, 128)
    new = replace(old, load_s=old.load_s + 1)
    reports.write(gpu, manifest, benchmark.BENCHMARK, new.to_json())
    reports.share(gpu, manifest, benchmark.BENCHMARK)
    assert benchmark.read_benchmark(io, manifest) == new
    newest = replace(old, load_s=old.load_s + 2)
    reports.write(io, manifest, benchmark.BENCHMARK, newest.to_json())
    assert benchmark.read_benchmark(io, manifest) == newest


def test_without_s3_nothing_is_shared(clients: Clients) -> None:
    manifest = pull(clients, Reference(MODEL)).manifest
    benchmark.benchmark(clients, manifest, 128)
    assert reports.share(clients, manifest, benchmark.BENCHMARK) is None


def test_a_report_of_an_older_version_is_read(clients: Clients) -> None:
    manifest = pull(clients, Reference(MODEL)).manifest
    old = json.loads((Path(__file__).parents[1] / "measure" / "benchmark-schema-1.json").read_text())
    files = {file.path: file.sha256 for file in manifest.files if file.path.endswith(".gguf")}
    kept = json.dumps({"files": files, "report": old})
    clients.volume.write_report(manifest.id, benchmark.BENCHMARK, kept)
    read = benchmark.read_benchmark(clients, manifest)
    assert isinstance(read, Benchmark)
    assert read.decode_tok_per_s == 98.4
    assert "decode of 64 tokens" in dossier.compose(clients, manifest)


def test_a_gpu_that_the_engine_does_not_use_gets_no_layer(clients: Clients) -> None:
    manifest = pull(clients, Reference(MODEL)).manifest
    machine = replace(this_machine(), gpus=(Gpu("a gpu", 2**34, 2**34),))
    plan = benchmark.plan_of(clients, manifest, 128, machine=machine)
    assert plan == benchmark.plan_of(clients, manifest, 128, machine=replace(machine, gpus=()))
    assert (plan.n_gpu_layers, plan.n_ctx, plan.n_threads) == (0, 128, 1)
