"""Compare a model with what is promoted, on a worker of the GPU work pool, or in this process if none is online."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from flows.parameters import ContextTokens, GateBounds, Model, RevisionName
from paddock.errors import EngineCrashed
from paddock.lifecycle.acquire.cache import push_missing
from paddock.lifecycle.acquire.restore import locate_or_restore, locate_replaced
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.onboard import HELD_BACK
from paddock.lifecycle.promote.gate_rules import GateRules, gate_rules
from paddock.lifecycle.promote.gating import compare_here, in_process, read_report, share_gates
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.targets import THIS_MACHINE
from tasks import gpu_pool, policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference

_ENGINE_RUNS = 6
"""At most so many times the limit of one engine process: two loads, predictions, speeds, and answers of both."""


@flow(flow_run_name="compare {model}", **policies.FLOW)
def compare_model(
    model: Model,
    revision: RevisionName | None = None,
    against: Model | None = None,
    context_tokens: ContextTokens | None = None,
    roleplay: bool = False,
    bounds: GateBounds | None = None,
    undecided_blocks: bool | None = None,
) -> State[GateReport]:
    """Compare a model with what is promoted: its quality, speed, memory and chat template. Each gate passes, holds it
    back, or cannot decide.

    The run ends as Completed: "Held back" is the name of its state for a model that does not pass.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the worker's volume or in S3. By default the promoted one.
        against: Model to compare it with, with its revision. By default what its promotion would replace.
        context_tokens: Context to load both with, 256 to 1048576 tokens. By default that of the catalog, else 4096.
        roleplay: Whether to compare also how well they play a character, which takes minutes.
        bounds: Bounds of gates, such as `{"decode": 0.8}`, that replace those of the worker's catalog.
        undecided_blocks: Whether a gate that cannot decide holds the model back. By default as the catalog says.
    """
    runner = PrefectRunner()
    manifest = runner.run(locate_or_restore, reference(model, revision))
    promoted = (
        runner.run(locate_or_restore, Reference.parse(against)) if against else runner.run(locate_replaced, manifest)
    )
    rules = gate_rules(runner.clients, manifest.id).with_parameters(
        bounds=bounds, undecided_blocks=undecided_blocks, context_tokens=context_tokens, roleplay=roleplay
    )
    report = compare_here(runner, manifest, promoted, rules)
    runner.run(share_gates, manifest)  # the run that waits for it may have another volume
    runner.run(refresh_dossier, manifest)
    return Completed(name=None if report.passed else HELD_BACK, message=report.line, data=report)


def compare_on_gpu_worker(
    candidate: Manifest, promoted: Manifest, rules: GateRules, *, target: str = THIS_MACHINE
) -> GateReport:
    """Compare two snapshots on a worker of the GPU work pool, or in this process if no worker is online.

    The report is on the volume, or in S3 if that worker has a volume of its own; it finds both snapshots there. In this
    process, a candidate that is meant for another machine and does not fit this one is not compared.
    """
    runner = PrefectRunner(target)
    before = runner.run(read_report, candidate, promoted)
    if gpu_pool.has_worker():  # it may have a volume of its own
        runner.run(push_missing, promoted)
    parameters = {
        "model": candidate.id.name,
        "revision": candidate.revision,
        "against": str(promoted.id),
        "context_tokens": rules.context_tokens,
        "roleplay": rules.roleplay,
        "bounds": dict(rules.bounds),
        "undecided_blocks": rules.undecided_blocks,
    }
    run = gpu_pool.start_on_gpu("compare-model/compare-gpu", parameters)
    if run is None:
        return in_process(runner, target=target)(candidate, promoted, rules)
    fetch_bytes = candidate.size_bytes + promoted.size_bytes
    limit_s = gpu_pool.time_limit_s(engine_runs=_ENGINE_RUNS, fetch_bytes=fetch_bytes)
    gpu_pool.await_completion(run, run_limit_s=limit_s)
    report = runner.run(read_report, candidate, promoted)
    if report is None or report == before:
        raise EngineCrashed(
            f"the run {run.name} compared {candidate.id.short}, and its report did not come back",
            cure="give the workers one volume, or one PADDOCK_S3_URI",
        )
    return report
