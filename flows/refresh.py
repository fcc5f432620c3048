"""Refresh the catalog: carry out the plan of a refresh, each changed entry as a flow run of its own."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from flows.approve import request_approval
from flows.parameters import CatalogName
from flows.phases import FlowPhases
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.gating import PromotionScope
from paddock.lifecycle.upkeep.refresh.change import change_entry
from paddock.lifecycle.upkeep.refresh.entries import EntryPhases
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry, RefreshPlan
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed, RefreshRequest, refresh
from paddock.lifecycle.upkeep.refresh.turns import InTurns, Turns
from paddock.model.artifact import Manifest
from tasks import gpu_pool, policies
from tasks.cancellation import cancelling_runs_below
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner
from tasks.secret_blocks import connect_run

_APPROVAL_S = 7 * 24 * 3600.0
"""How long an approval waits for an answer."""
_NAMED_STATES = {RefreshOutcome.HELD_BACK: "Held back", RefreshOutcome.WAITING: "Waiting for approval"}
"""Names of final states that are not plainly Completed."""


@flow(flow_run_name="refresh the catalog", **policies.FLOW)
def refresh_catalog(catalog: CatalogName | None = None, dry_run: bool = False) -> Refreshed | State[Refreshed]:
    """Make what is promoted follow the catalog: plan, then acquire, validate, measure, compare and promote each model
    that changed.

    A model that is worse than what is promoted, or broken, is held back. The run fails at its end if an entry failed
    that the catalog requires. While another one refreshes the same volume, it ends at once as "Skipped".

    Args:
        catalog: File on the worker, or object in S3, with the models that are wanted. By default as the worker's
            settings say.
        dry_run: Whether only to plan.
    """
    clients = connect_run(catalog)
    request = RefreshRequest(catalog, dry_run)
    with cancelling_runs_below():
        refreshed = refresh(
            PrefectRunner(clients=clients),
            request,
            SubflowEntries(clients, catalog),
            on_plan=_log_plan,
            on_outcome=lambda outcome: _log(outcome.line),
        )
    if refreshed.held_by is not None:
        return Completed(name="Skipped", message=refreshed.line, data=refreshed)
    return Completed(message=refreshed.line, data=refreshed)


class SubflowEntries(EntryPhases):
    """Carries each entry out as a subflow. Where a worker of the GPU pool measures, one at a time on each GPU, fetches
    do not wait for it. `catalog` is that of the clients; None: as the settings say."""

    def __init__(self, clients: Clients, catalog: str | None) -> None:
        self._clients = clients
        self._catalog = catalog
        self._turns = Turns(exclusive=not gpu_pool.has_worker(), announce=_log)

    def change(self, planned: PlannedEntry) -> EntryOutcome:
        variant = planned.variant or planned.entry.variant

        # What is planned is no parameter: Prefect would store all of it, with the template's difference.
        @flow(name="refresh-entry", flow_run_name=f"refresh {planned.model} {variant}", **policies.FLOW)
        def refresh_entry(
            model: str,  # noqa: ARG001 - the parameters are for people
            variant: str,  # noqa: ARG001
            revision: str | None,  # noqa: ARG001
            action: str,  # noqa: ARG001
        ) -> EntryOutcome | State[EntryOutcome]:
            """Carry out what the refresh plans for one entry of the catalog."""
            runner = PrefectRunner(planned.entry.target, self._clients)
            phases = InTurns(FlowPhases(runner), self._turns)
            outcome = change_entry(self._clients, phases, planned, self._request_approval)
            run_logger().info(outcome.line)
            name = _NAMED_STATES.get(outcome.outcome)
            return Completed(name=name, message=outcome.line, data=outcome)

        outcome: EntryOutcome = refresh_entry(  # type: ignore[assignment] # the state's data
            str(planned.model), variant, planned.revision, planned.action.value
        )
        return outcome

    def _request_approval(self, manifest: Manifest, differences: str, scope: PromotionScope) -> str:
        return request_approval(manifest, differences, scope, timeout_s=_APPROVAL_S, catalog=self._catalog)


def _log_plan(plan: RefreshPlan) -> None:
    for planned in plan.entries:
        if planned.changes or planned.measure:
            _log(f"{planned.entry.name}: {planned.action.value}, {planned.reason}")


def _log(line: str) -> None:
    """Log a line in the run of the thread that calls it."""
    run_logger().info("%s", line)
