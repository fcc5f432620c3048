"""Load a model in the engine's own process and measure it, on the machine that has the GPU."""

from __future__ import annotations

from typing import cast

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from flows.parameters import ContextTokens, Model, RevisionName
from paddock.measure.benchmark import Benchmark
from tasks import engine, policies, validate


@flow(flow_run_name="benchmark-{model}", **policies.FLOW)
def benchmark_model(model: Model, revision: RevisionName = "main", context_tokens: ContextTokens = 4096) -> Benchmark:
    """Load a model in the engine's own process and measure prefill, decode, time to first token and memory.

    Args:
        model: The repository on the Hub, `org/name`.
        revision: A branch, a tag or a commit that is on the volume.
        context_tokens: The context that it is loaded with, in tokens. A model trained for less is loaded with that.
    """
    manifest = validate.locate(model, revision)
    return engine.benchmark(manifest, context_tokens)


def benchmark_where_it_serves(model: str, revision: str, context_tokens: int) -> None:
    """Measure on a worker of the GPU pool when one is there, and in this process when none is.

    The result is read from the volume's reports, which all workers share, so that it does not matter where it was made.
    """
    if engine.gpu_worker_is_online():
        parameters = {"model": model, "revision": revision, "context_tokens": context_tokens}
        run = run_deployment("benchmark-model/gpu", parameters=parameters, timeout=engine.time_limit_s())
        engine.require_completed(cast(FlowRun, run))
    else:
        benchmark_model(model, revision, context_tokens)
