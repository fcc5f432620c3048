"""Benchmark and tune a snapshot of the volume, and keep the results with the volume's reports."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.lifecycle import reports
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.memory_observations import record_observation
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run import tune as tuning
from paddock.lifecycle.steps import Kind, Runner, step
from paddock.measure.benchmark import Benchmark
from paddock.measure.benchmark import benchmark as run_benchmark
from paddock.measure.load_test import LoadTest, run_load_test
from paddock.measure.roleplay import Roleplay, measure_roleplay
from paddock.measure.tuning import BUDGET_S, Tuning
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.model.quantization import get_gguf_file_path
from paddock.planning.plan import PlanRequest

_LOG = logging.getLogger(__name__)

BENCHMARK = "benchmark.json"
PROMPTS = (32, 1024)
GENERATIONS = (16, 256)
"""Measured beside the prompt of 256 and the answer of 64 tokens that everyone is compared by."""


def measure(
    runner: Runner,
    manifest: Manifest,
    context_tokens: int,
    *,
    roleplay: bool = False,
    tune_first: bool = False,
    budget_s: float = BUDGET_S,
) -> tuple[Benchmark, Tuning | None]:
    """Benchmark a snapshot; with `tune_first` the engine's settings are tuned before."""
    tuned = runner.run(tune, manifest, context_tokens, budget_s=budget_s) if tune_first else None
    return runner.run(benchmark, manifest, context_tokens, roleplay=roleplay), tuned


@step(Kind.ENGINE, "benchmark", line=lambda measured: measured.line)
def benchmark(clients: Clients, manifest: Manifest, context_tokens: int, *, roleplay: bool = False) -> Benchmark:
    """Load the model of a snapshot in the engine's own process, measure it, and keep the result; with `roleplay` also
    how well it plays a character, which takes a minute or more."""
    machine = this_machine()
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    plan = plan_of(clients, manifest, context_tokens, machine=machine)
    known, context = clients.settings, plan.n_ctx
    with clients.volume.lease(manifest.id):
        parameters = tuning.tuned(clients, manifest, plan, machine=machine)
        measured = run_benchmark(
            path,
            parameters=parameters,
            n_prompt=min(256, context // 2),
            n_gen=min(64, context // 4),
            more_prompts=[length for length in PROMPTS if length <= context // 2],
            more_gens=[length for length in GENERATIONS if length <= context // 4],
            timeout_s=known.engine_timeout_s,
            machine=machine,
        )
        measured = replace(measured, tuned=parameters != plan)
        reports.write(clients, manifest, BENCHMARK, measured.to_json())
        record_observation(clients, manifest, measured)
        if roleplay:
            measured = replace(measured, roleplay=_played(clients, manifest, path, context))
            reports.write(clients, manifest, BENCHMARK, measured.to_json())
    return measured


@step(Kind.ENGINE, "tune", line=lambda found: f"tuned in {found.seconds:.0f} s: {found.rows()[-1][1]}")
def tune(clients: Clients, manifest: Manifest, context_tokens: int, *, budget_s: float = BUDGET_S) -> Tuning:
    """Seek what is fastest for a snapshot on this machine, and remember it for every later benchmark and server."""
    plan = plan_of(clients, manifest, context_tokens, machine=this_machine())
    return tuning.tune(clients, manifest, plan, budget_s=budget_s)


@step(Kind.STORE, "share-benchmark", line=lambda where: f"the result is at {where or 'the volume alone'}")
def share_benchmark(clients: Clients, manifest: Manifest) -> str | None:
    """Copy the result to the remote store: the run that waits for it may have another volume."""
    return reports.share(clients, manifest, BENCHMARK)


def measure_server(
    clients: Clients, manifest: Manifest, measured: Benchmark, url: str, *, api_key: SecretStr | None
) -> Benchmark:
    """Load a server of the model from outside, and keep what came of it beside what was measured."""
    loaded: LoadTest = run_load_test(url, api_key=api_key)
    measured = replace(measured, http=loaded)
    reports.write(clients, manifest, BENCHMARK, measured.to_json())
    return measured


def plan_of(clients: Clients, manifest: Manifest, context_tokens: int, *, machine: Machine) -> Parameters:
    """What a snapshot is measured with where nobody tuned it: its plan for this machine as it is now, with
    PADDOCK_THREADS where that is set."""
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    found = preflight(clients, str(path), PlanRequest(context_tokens, at_most_trained=True), machine=machine)
    found.require_fit()
    return with_threads(found.plan.parameters, clients.settings.threads)


def with_threads(parameters: Parameters, threads: int | None) -> Parameters:
    """The parameters with so many threads where somebody said how many."""
    return replace(parameters, n_threads=threads, n_threads_batch=threads) if threads else parameters


def read_benchmark(clients: Clients, manifest: Manifest) -> Benchmark | None:
    return reports.read(clients, manifest, BENCHMARK, Benchmark.from_json)


def _played(clients: Clients, manifest: Manifest, path: Path, context_tokens: int) -> Roleplay | None:
    """None, and a line in the log, for a model whose window or template is not made for it: that is no fault of its."""
    known = clients.settings
    try:
        return measure_roleplay(
            path,
            chat_of_snapshot(clients, manifest),
            context_tokens=context_tokens,
            threads=known.threads,
            timeout_s=known.engine_timeout_s,
        )
    except ConflictingConfiguration as error:
        _LOG.warning("the roleplay of %s was not measured: %s", manifest.repository, error.message)
        return None
