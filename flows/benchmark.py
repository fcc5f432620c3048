"""Load a model in the engine's own process and measure it, on the machine that has the GPU."""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.parameters import ContextTokens, Model, Profile, RevisionName
from paddock.lifecycle.acquire.restore import reach
from paddock.lifecycle.onboard import skip_if_too_large
from paddock.lifecycle.run.benchmark import measure, share_benchmark
from paddock.measure.benchmark import Benchmark
from paddock.model.artifact import Manifest
from tasks import gpu_pool, policies
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
    """Load a model in the engine's own process and measure prefill, decode, time to first token and memory.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit that is on the worker's volume or in S3; when not given, what is promoted.
        context_tokens: The context that it is loaded with, in tokens. A model trained for less is loaded with that.
        profile: With `roleplay`, how well it plays a character is measured too.
        tune: Seek the engine's fastest settings on this worker first, for two minutes, and remember them there.
    """
    runner = PrefectRunner()
    manifest = runner.run(reach, reference(model, revision))
    measured, _ = measure(runner, manifest, context_tokens, roleplay=profile == "roleplay", tune_first=tune)
    runner.run(share_benchmark, manifest)  # the run that waits for it may have another volume
    return measured


def benchmark_where_it_serves(manifest: Manifest, context_tokens: int, profile: Profile, target: str) -> None:
    """Measure on a worker of the GPU pool when one takes it, and in this process when there is none.

    The result is read from the reports of the volume, or of S3 where that worker has a volume of its own. A model that
    is meant for another machine and does not fit here stays unmeasured, and its dossier says so.
    """
    model, revision = manifest.id.name, manifest.revision
    parameters = {"model": model, "revision": revision, "context_tokens": context_tokens, "profile": profile}
    run = gpu_pool.start_on_gpu("benchmark-model/benchmark-gpu", parameters)
    if run is None:
        with skip_if_too_large(manifest, target, warn=get_run_logger().warning):
            benchmark_model(model, revision, context_tokens, profile)
    else:
        runs = 3 if profile == "roleplay" else 1  # it counts tokens, and it answers
        limit_s = gpu_pool.time_limit_s(engine_runs=runs, fetch_bytes=manifest.size_bytes)
        gpu_pool.await_completion(run, run_limit_s=limit_s)
