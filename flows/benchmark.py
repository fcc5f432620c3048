"""Load a model in the engine's own process and measure it, on the machine that has the GPU."""

from __future__ import annotations

from prefect import flow

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
    """Measure on a worker of the GPU pool when one takes it, and in this process when there is none.

    The result is read from the volume's reports, which all workers share, so that it does not matter where it was made.
    """
    parameters = {"model": model, "revision": revision, "context_tokens": context_tokens}
    run = engine.start_on_gpu("benchmark-model/gpu", parameters)
    if run is None:
        benchmark_model(model, revision, context_tokens)
    else:
        engine.await_completion(run, run_limit_s=engine.time_limit_s())
