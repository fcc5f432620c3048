"""Benchmark and tune a snapshot of the volume, and write the results to the volume's reports, if it can be written.

`paddock.lifecycle.run.stored_benchmarks` stores the results.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.gguf.directory import get_gguf_file_path, local_kind
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.memory_observations import record_observation
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.run import tune as tuning
from paddock.lifecycle.run.stored_benchmarks import BENCHMARK, read_benchmark, record_benchmark, share_benchmarks
from paddock.lifecycle.steps import Runner, step
from paddock.lifecycle.uses import share_usage, timed_use
from paddock.measure.benchmark import benchmark as run_benchmark
from paddock.measure.benchmark import require_measurable
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.load_test import LoadTest, run_load_test
from paddock.measure.roleplay import Roleplay, measure_roleplay
from paddock.measure.tuning import BUDGET_S, Tuning
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.planning.plan import PlanRequest
from paddock.settings import Secret
from paddock.store.open_snapshot import OpenSnapshot

_LOG = logging.getLogger(__name__)

__all__ = [
    "BENCHMARK",
    "benchmark",
    "measure",
    "measure_server",
    "plan_of",
    "read_benchmark",
    "read_shared_benchmark",
    "require_text",
    "share_benchmark",
    "tune",
    "with_threads",
]

PROMPTS = (32, 1024)
GENERATIONS = (16, 256)
"""Token counts that are measured in addition to the standard prompt of 256 and generation of 64 tokens."""


def measure(
    runner: Runner,
    manifest: Manifest,
    context_tokens: int,
    *,
    roleplay: bool = False,
    tune_first: bool = False,
    budget_s: float = BUDGET_S,
    pool: str | None = None,
) -> tuple[Benchmark, Tuning | None]:
    """Benchmark a snapshot, and draw the figures; with `tune_first`, tune the engine's settings before. Returns
    (benchmark, tuning). `pool` is the Prefect work pool of this worker.

    Raises ConflictingConfiguration, before anything is loaded, for what cannot be done with the model's kind."""
    from paddock.lifecycle.run.pictures import draw_pictures

    tuned = runner.run(tune, manifest, context_tokens, budget_s=budget_s) if tune_first else None
    measured = runner.run(benchmark, manifest, context_tokens, roleplay=roleplay, pool=pool)
    runner.run(draw_pictures, manifest, measured)
    return measured, tuned


@step(Kind.ENGINE, "benchmark", line=lambda measured: measured.line)
def benchmark(
    clients: Clients, manifest: Manifest, context_tokens: int, *, roleplay: bool = False, pool: str | None = None
) -> Benchmark:
    """Load the model of a snapshot in an engine process, measure it, and write the report; with `roleplay`, measure
    also how well it plays a character, which takes a minute or more. Raises ConflictingConfiguration for what cannot be
    done with the model's kind, and CorruptFile for a damaged snapshot."""
    with open_snapshot(clients, manifest) as opened:
        return _benchmark(clients, manifest, opened, context_tokens, roleplay=roleplay, pool=pool)


def _benchmark(
    clients: Clients,
    manifest: Manifest,
    opened: OpenSnapshot,
    context_tokens: int,
    *,
    roleplay: bool,
    pool: str | None,
) -> Benchmark:
    path = get_gguf_file_path(opened.directory)
    kind = local_kind(path)
    require_measurable(manifest.id.name, kind)
    if roleplay:
        require_text(manifest, kind, "plays no character", "benchmark it without --roleplay")
    machine = this_machine()
    plan = plan_of(clients, manifest, context_tokens, machine=machine)
    context = plan.n_ctx
    with clients.volume.lease(manifest.id), timed_use(clients, manifest.id, "benchmark"):
        parameters = tuning.apply_tuning(clients, manifest, plan, machine=machine, path=path)
        result = _until_reliable(
            lambda: run_benchmark(
                path,
                parameters=parameters,
                n_prompt=min(256, context // 2),
                n_gen=min(64, context // 4),
                more_prompts=[length for length in PROMPTS if length <= context // 2],
                more_gens=[length for length in GENERATIONS if length <= context // 4],
                timeout_s=clients.settings.engine_timeout_s,
                machine=machine,
            ),
            budget_s=clients.settings.benchmark_budget_s,
        )
        opened.require_unchanged()
        result = replace(result, tuned=parameters != plan, pool=pool)
        record_benchmark(clients, manifest, result)
        record_observation(clients, manifest, result)
        if roleplay:
            result = replace(result, roleplay=_measure_roleplay(clients, manifest, path, context))
            opened.require_unchanged()
            record_benchmark(clients, manifest, result)
    return result


def _until_reliable(run: Callable[[], Benchmark], *, budget_s: float) -> Benchmark:
    """Repeat a benchmark while it is disturbed and another run probably ends within `budget_s` seconds. Returns the
    result with the fewest doubts."""
    began = time.monotonic()
    best = run()
    repeats = 0
    while best.doubts and (time.monotonic() - began) * (repeats + 2) / (repeats + 1) < budget_s:
        _LOG.info("the benchmark is repeated: %s", "; ".join(best.doubts))
        best = min(best, run(), key=lambda result: len(result.doubts))
        repeats += 1
    return best


@step(Kind.ENGINE, "tune", line=lambda found: f"tuned in {found.seconds:.0f} s: {found.rows()[-1][1]}")
def tune(clients: Clients, manifest: Manifest, context_tokens: int, *, budget_s: float = BUDGET_S) -> Tuning:
    """Find the fastest settings for a snapshot on this machine, and store them for later benchmarks and servers. Raises
    ConflictingConfiguration for a model that generates no text, and CorruptFile for a damaged snapshot."""
    with open_snapshot(clients, manifest) as opened:
        require_text(
            manifest,
            local_kind(get_gguf_file_path(opened.directory)),
            "is not tuned, since the requests that are timed generate text",
            "leave out --tune",
        )
        plan = plan_of(clients, manifest, context_tokens, machine=this_machine())
        return tuning.tune(clients, manifest, plan, budget_s=budget_s)


@step(
    Kind.STORE,
    "share-benchmark",
    line=lambda where: f"the result is at {where}" if where else "the result is on the volume alone",
)
def share_benchmark(clients: Clients, manifest: Manifest) -> str | None:
    """Copy the results to the remote store, for a run that waits for them with another volume. Returns the address of
    one; None without a remote store that has the snapshot."""
    where = share_benchmarks(clients, manifest)
    share_usage(clients)
    return where


@step(Kind.STORE, "read-benchmark")
def read_shared_benchmark(clients: Clients, manifest: Manifest) -> Benchmark | None:
    """The result that another worker measured, on the volume or in the remote store."""
    return read_benchmark(clients, manifest)


def measure_server(
    clients: Clients, manifest: Manifest, measured: Benchmark, url: str, *, api_key: Secret | None
) -> Benchmark:
    """Run a load test against a server of the model, and add its result to the report of the benchmark."""
    from paddock.lifecycle.run.pictures import draw_pictures

    load_test: LoadTest = run_load_test(url, api_key=api_key)
    measured = replace(measured, http=load_test)
    record_benchmark(clients, manifest, measured)
    draw_pictures(clients, manifest)
    return measured


def require_text(manifest: Manifest, kind: ModelKind, consequence: str, cure: str) -> None:
    """Raise ConflictingConfiguration for a model that generates no text. `consequence` continues the sentence."""
    if not kind.generates_text:
        raise ConflictingConfiguration(f"{manifest.id.name} is {kind.noun}: it {consequence}", cure=cure)


def plan_of(clients: Clients, manifest: Manifest, context_tokens: int, *, machine: Machine) -> Parameters:
    """The parameters of an untuned snapshot: its plan for the free memory of this machine, with PADDOCK_THREADS if that
    is set. Raises DoesNotFit, and as `preflight`."""
    return planned(clients, manifest, context_tokens, machine=machine)[0]


def planned(
    clients: Clients, manifest: Manifest, context_tokens: int, *, machine: Machine
) -> tuple[Parameters, Memory]:
    """As `plan_of`, with the memory that the plan takes."""
    request = PlanRequest(context_tokens, at_most_trained=True)
    with open_snapshot(clients, manifest) as opened:
        path = get_gguf_file_path(opened.directory)
        result = preflight(clients, str(path), request, machine=machine, name=str(manifest.id))
    result.require_fit()
    return with_threads(result.plan.parameters, clients.settings.threads), result.plan.memory


def with_threads(parameters: Parameters, threads: int | None) -> Parameters:
    """The parameters with `threads` threads; unchanged for None."""
    return replace(parameters, n_threads=threads, n_threads_batch=threads) if threads else parameters


def _measure_roleplay(clients: Clients, manifest: Manifest, path: Path, context_tokens: int) -> Roleplay | None:
    """None, and a warning, for a model whose context or template does not allow it: the benchmark does not fail."""
    settings = clients.settings
    try:
        return measure_roleplay(
            path,
            chat_of_snapshot(clients, manifest),
            context_tokens=context_tokens,
            threads=settings.threads,
            timeout_s=settings.engine_timeout_s,
        )
    except ConflictingConfiguration as error:
        _LOG.warning("the roleplay of %s was not measured: %s", manifest.repository, error.message)
        return None
