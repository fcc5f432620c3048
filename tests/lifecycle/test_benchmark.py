"""Benchmark reports: written, shared with workers on another volume, and read back, the newest one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from paddock.lifecycle import dossier, reports
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run import benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.store.copying import push
from tests.support.tiny_hub import copy_directory, use_s3


@pytest.fixture
def workers(
    clients: Clients, pulled: Manifest, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Clients, Clients]:
    """Two with a volume each and one S3, which has the model."""
    use_s3(monkeypatch, s3, tmp_path.name)
    one = connect()
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "another"))
    other = connect()
    copy_directory(one.volume.root, other.volume.root)
    assert one.remote is not None
    push(one.volume, one.remote, pulled)
    return one, other


def test_a_shared_report_is_read_by_a_worker_with_another_volume(
    workers: tuple[Clients, Clients], pulled: Manifest
) -> None:
    gpu, io = workers
    measured = benchmark.benchmark(gpu, pulled, 128)
    (used,) = gpu.volume.usage.rows()
    assert (used.id, used.kind, used.usage.uses, used.usage.seconds > 0) == (pulled.id, "benchmark", 1, True)
    assert benchmark.read_benchmark(io, pulled) is None
    where = reports.share(gpu, pulled, benchmark.BENCHMARK)
    assert where is not None
    assert where.startswith("s3://")
    assert benchmark.read_benchmark(io, pulled) == measured
    assert "## Benchmark" in dossier.markdown(dossier.read_dossier(io, pulled))
    written = dossier.write_dossier(io, pulled)
    assert "## Quality\n\nNot measured yet." in written.markdown
    assert "## Benchmark\n\nNot measured yet." not in written.markdown
    for store in (io.volume, io.remote):
        assert store is not None
        assert store.read_report(pulled.id, dossier.REPORT) == written.markdown
        assert store.read_report(pulled.id, dossier.JSON_REPORT) == written.document.to_json()

    old, new, newest = (replace(measured, load_s=measured.load_s + number) for number in range(3))
    reports.write(io, pulled, benchmark.BENCHMARK, old.to_json())
    reports.write(gpu, pulled, benchmark.BENCHMARK, new.to_json())
    reports.share(gpu, pulled, benchmark.BENCHMARK)
    assert benchmark.read_benchmark(io, pulled) == new, "the newer of two"
    reports.write(io, pulled, benchmark.BENCHMARK, newest.to_json())
    assert benchmark.read_benchmark(io, pulled) == newest


def test_without_s3_nothing_is_shared(clients: Clients, pulled: Manifest) -> None:
    benchmark.benchmark(clients, pulled, 128)
    assert reports.share(clients, pulled, benchmark.BENCHMARK) is None


def test_a_report_of_an_older_version_is_read(clients: Clients, pulled: Manifest) -> None:
    old = json.loads((Path(__file__).parents[1] / "measure" / "benchmark-schema-1.json").read_text())
    files = {file.path: file.sha256 for file in pulled.files if file.path.endswith(".gguf")}
    kept = json.dumps({"files": files, "report": old})
    clients.volume.write_report(pulled.id, benchmark.BENCHMARK, kept)
    read = benchmark.read_benchmark(clients, pulled)
    assert isinstance(read, Benchmark)
    assert read.decode_tok_per_s == 98.4
    assert "decode of 64 tokens" in dossier.markdown(dossier.read_dossier(clients, pulled))


def test_a_gpu_that_the_engine_does_not_use_gets_no_layer(clients: Clients, pulled: Manifest) -> None:
    machine = replace(this_machine(), gpus=(Gpu("a gpu", 2**34, 2**34),))
    plan = benchmark.plan_of(clients, pulled, 128, machine=machine)
    assert plan == benchmark.plan_of(clients, pulled, 128, machine=replace(machine, gpus=()))
    assert (plan.n_gpu_layers, plan.n_ctx, plan.n_threads) == (0, 128, 1)
