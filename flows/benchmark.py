"""Benchmark a model on a worker of the GPU work pool, or in this process if no worker is online."""

from __future__ import annotations

from prefect import flow

from flows.parameters import ContextTokens, Model, Profile, RevisionName
from paddock.lifecycle.acquire.restore import locate_or_restore
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.onboard import OnboardRequest, skip_if_too_large
from paddock.lifecycle.run.benchmark import measure, read_shared_benchmark, share_benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest
from tasks import gpu_pool, policies
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="benchmark {model}", **policies.FLOW)
def benchmark_model(
    model: Model,
    revision: RevisionName | None = None,
    context_tokens: ContextTokens = 4096,
    profile: Profile = "chat",
    tune: bool = False,
) -> Benchmark:
    """Load a model in an engine process, and measure prefill, decode, time to first token and memory.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the worker's volume or in S3. By default the promoted one.
        context_tokens: Context to load the model with, 256 to 1048576 tokens; at most the context that it was trained
            for.
        profile: Use of the model. `roleplay` also measures how well it plays a character.
        tune: Whether to find the engine's fastest settings on this worker first, for two minutes, and to store them.
    """
    runner = PrefectRunner()
    manifest = runner.run(locate_or_restore, reference(model, revision))
    roleplay, pool = profile == "roleplay", gpu_pool.own_pool()
    measured, _ = measure(runner, manifest, context_tokens, roleplay=roleplay, tune_first=tune, pool=pool)
    runner.run(share_benchmark, manifest)  # the run that waits for it may have another volume
    runner.run(refresh_dossier, manifest)
    return measured


def benchmark_on_gpu_worker(runner: PrefectRunner, manifest: Manifest, request: OnboardRequest) -> Benchmark | None:
    """Run the benchmark on a worker of the GPU work pool, or in this flow run if no worker is online.

    The result is in the reports of the volume, or of S3 if that worker has a volume of its own. In this flow run, a
    model that is meant for another machine and does not fit this one is skipped with a warning: None.
    """
    roleplay = request.profile == "roleplay"
    parameters = {
        "model": manifest.id.name,
        "revision": manifest.revision,
        "context_tokens": request.context,
        "profile": request.profile,
    }
    run = gpu_pool.start_on_gpu("benchmark-model/benchmark-gpu", parameters)
    if run is None:
        with skip_if_too_large(manifest, request.target, warn=run_logger().warning):
            measured, _ = measure(runner, manifest, request.context, roleplay=roleplay, pool=gpu_pool.own_pool())
            runner.run(share_benchmark, manifest)
            return measured
        return None
    runs = 3 if roleplay else 1  # the roleplay starts the engine twice: to count tokens, and to answer
    limit_s = gpu_pool.time_limit_s(engine_runs=runs, fetch_bytes=manifest.size_bytes)
    gpu_pool.await_completion(run, run_limit_s=limit_s)
    return runner.run(read_shared_benchmark, manifest)
