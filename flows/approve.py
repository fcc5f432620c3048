"""Ask a person whether a snapshot may be promoted, in a run that is suspended until the answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from prefect import State, flow, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.compare import compare_on_gpu_worker
from flows.parameters import CatalogName, Days, Differences, Model, RevisionName, VariantName
from paddock.errors import OrchestratorUnavailable
from paddock.lifecycle.acquire.restore import locate_or_restore
from paddock.lifecycle.promote import approval
from paddock.lifecycle.promote.approval import Approval, Decision
from paddock.lifecycle.promote.gating import PromotionScope
from paddock.lifecycle.promote.promote import promote
from paddock.model.artifact import Manifest
from paddock.model.reference import parse_variant
from tasks import approval_artifacts, policies
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner
from tasks.secret_blocks import connect_run
from tasks.subject import StoreSubject
from tasks.wiring import reference

DEPLOYMENT = "approve-promotion/approve"
NOT_ANSWERED = "Not answered"
"""The name of the final state of a run that nobody answered in time."""

_DAY_S = 24 * 3600
_NOT_BLANK = r"\S"
_DECISIONS = "approve promotes it now; decline keeps what is promoted, and this revision is not asked about again."


class ApprovalForm(RunInput):
    """The form that a person fills in to resume the run. The server holds the answer to it."""

    decision: Annotated[
        Literal["approve", "decline"],
        Field(description=_DECISIONS),
    ]
    reason: Annotated[
        str, Field(min_length=1, max_length=500, pattern=_NOT_BLANK, description="Why, for the model's history.")
    ]
    name: Annotated[
        str, Field(min_length=1, max_length=100, pattern=_NOT_BLANK, description="Your name, for the model's history.")
    ]


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    return f"approve {parameters['model']}@{parameters['revision'][:8]}"


@flow(flow_run_name=_run_name, **policies.FLOW)
def approve_promotion(
    model: Model,
    revision: RevisionName,
    replaces: Model | None = None,
    differences: Differences = "",
    default: bool = True,
    instead_of: VariantName | None = None,
    days: Days = 7.0,
    catalog: CatalogName | None = None,
) -> State[str]:
    """Ask a person whether to promote a snapshot, and promote it or not by the answer.

    The run is suspended until someone resumes it, which takes an answer; it needs no worker meanwhile. Without an
    answer in time it fails, and nothing is promoted.

    Args:
        model: Variant of a repository, `org/name:Q4_K_M`.
        revision: Commit, on the worker's volume or in S3.
        replaces: Snapshot that the promotion would replace, with its revision. The answer holds for this one alone.
        differences: What differs from that snapshot, as text.
        default: Whether a promotion also makes the variant the model's default.
        instead_of: Variant whose place it takes. It is compared with that one, unless it replaces another snapshot.
        days: Days until the run ends without an answer, up to 365.
        catalog: File on the worker, or object in S3, with the bounds of the gates. By default as the worker's settings
            say.
    """
    runner = PrefectRunner(clients=connect_run(catalog))
    scope = PromotionScope(default, parse_variant(instead_of) if instead_of else None)
    manifest = runner.run(locate_or_restore, reference(model, revision))
    question = runner.run(
        approval.ask, manifest, replaces=replaces, default=default, days=days, differences=differences
    )
    form = ApprovalForm.with_initial_data(description=approval_artifacts.form_markdown(question))
    answer = suspend_flow_run(wait_for_input=form, timeout=max(1, round(days * _DAY_S)), key="approval")
    given = Decision.APPROVED if answer.decision == "approve" else Decision.DECLINED
    answered = Approval.now(given, reason=answer.reason.strip(), by=answer.name.strip(), replaces=replaces)
    runner.run(approval.record_approval, manifest, answered)
    if not answered.approved:
        return Completed(name="Declined", message=answered.line, data=answered.line)
    approval.require_unchanged(runner.clients, manifest, scope, replaces=replaces)
    promoted = promote(
        runner,
        manifest.id.reference,
        reason=answered.line,
        default=scope.default,
        instead_of=scope.instead_of,
        comparer=compare_on_gpu_worker,
        announce=run_logger().info,
    )
    return Completed(name="Approved", message=answered.line, data=promoted.dossier)


def request_approval(
    manifest: Manifest, differences: str, scope: PromotionScope, *, timeout_s: float, catalog: str | None = None
) -> str:
    """Ask once whether to promote a snapshot in place of what is promoted now, and return a line that says where the
    question waits, or how it was answered. `catalog` is that of the gates, by default as the worker's settings say.

    However often it is called, there is one run. A question that nobody answered in time is recorded as not approved.
    Raises OrchestratorUnavailable where the flow is not deployed.
    """
    clients = connect_run()
    refused = approval.refusal(clients, manifest)
    if refused is not None:
        return refused.line
    replaces = approval.would_replace(clients, manifest, scope)
    volume = StoreSubject.of_volume(clients).identity
    key = f"approve {manifest.id} instead of {replaces} on {volume}"
    parameters = {
        "model": manifest.id.name,
        "revision": manifest.revision,
        "replaces": replaces,
        "differences": differences[: approval.MOST_DIFFERENCES],
        "default": scope.default,
        "instead_of": scope.instead_of,
        "days": timeout_s / _DAY_S,
        "catalog": catalog,
    }
    run = _start(manifest, parameters, key=key)
    state = run.state
    if state is None or not state.is_final():
        return f"waiting for approval in the run {run.name} ({run.id})"
    if _was_not_answered(state):
        answered = Approval.now(
            Decision.NONE, reason=f"nobody answered the run {run.name} ({run.id}) in time", replaces=replaces
        )
        PrefectRunner().run(approval.record_approval, manifest, answered)
        _name_state(run, answered.line)
        return answered.line
    return f"the run {run.name} ({run.id}) ended as {state.name}: {state.message or 'no reason is given'}"


def _start(manifest: Manifest, parameters: dict[str, Any], *, key: str) -> FlowRun:
    """The run with this idempotency key: a new one, or the one that was made before."""
    try:
        run = run_deployment(
            DEPLOYMENT,
            parameters=parameters,
            flow_run_name=f"approve {manifest.id.short}",
            timeout=0,
            as_subflow=False,
            idempotency_key=key,
        )
    except ObjectNotFound:
        raise OrchestratorUnavailable(
            f"the promotion of {manifest.id.short} waits for approval, and {DEPLOYMENT} is not deployed",
            cure=f"run `python -m infra.bootstrap`, or promote it with `paddock promote {manifest.id}`",
        ) from None
    return cast(FlowRun, run)


def _was_not_answered(state: State[Any]) -> bool:
    """Whether Prefect's server ended a suspended run: it does so at the time-out alone, and without a process."""
    return state.type is StateType.FAILED and "never resumed" in (state.message or "")


def _name_state(run: FlowRun, line: str) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Failed(name=NOT_ANSWERED, message=line), force=True)
