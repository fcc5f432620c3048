"""The steps that run the engine."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from paddock.errors import EngineCrashed
from paddock.lifecycle import judgement
from paddock.measure.benchmark import Benchmark
from paddock.model.artifact import Manifest
from tasks import policies, record
from tasks.wiring import parts

GPU_POOL = "paddock-gpu"


@task(task_run_name="benchmark", **policies.ENGINE)
def benchmark(manifest: Manifest, context_tokens: int) -> Benchmark:
    """Load the model in the engine's own process, measure it, and keep the result with the volume's reports."""
    measured = judgement.benchmark(parts(), manifest, context_tokens)
    record.benchmark(manifest.model, measured)
    for one in measured.results:
        speed = one.prefill_tok_per_s or one.decode_tok_per_s or 0.0
        get_run_logger().info("prompt %d, generated %d: %.1f tokens/s", one.n_prompt, one.n_gen, speed)
    return measured


def gpu_worker_is_online() -> bool:
    """Whether a worker of the GPU pool takes work now. A pool that does not exist has none."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(GPU_POOL)
            workers = client.read_workers_for_work_pool(GPU_POOL)
        except ObjectNotFound:
            return False
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


def time_limit_s() -> float:
    """How long a run on another worker is waited for: the engine's own limit, and a while to start and to report."""
    return parts().settings.engine_timeout_s + 120


def require_completed(run: FlowRun) -> None:
    """Raise what a run on another worker ended with, unless it completed. One that never ended is cancelled.

    Prefect takes a worker that was killed for online for a minute and a half: a run can wait for nobody.
    """
    state = run.state
    if state is not None and state.is_completed():
        return
    if state is None or not state.is_final():
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Cancelling())
    said = (state.message if state is not None else None) or (state.name if state is not None else "it has no state")
    raise EngineCrashed(
        f"the run {run.name} on the pool {GPU_POOL} did not complete: {said}",
        cure="see that run and its pool's workers",
    )
