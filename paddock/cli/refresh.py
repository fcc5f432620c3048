"""Command refresh: make what is promoted follow the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paddock.cli.logs import convert_other_handlers
from paddock.cli.options import Json, make_clients
from paddock.cli.output import print_result

if TYPE_CHECKING:
    from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry, RefreshPlan
    from paddock.lifecycle.upkeep.refresh.refresh import Refreshed


def refresh(
    file: Annotated[
        str | None, typer.Option("--catalog", metavar="FILE", help="By default that of PADDOCK_CATALOG.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and do nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Make what is promoted follow the catalog: print the plan, then carry it out.

    A model that is worse than the promoted one is held back. It runs in this process. If PREFECT_API_URL is set, that
    Prefect server records the run.
    """
    from paddock.cli.render_upkeep import render_refresh_plan, render_refreshed
    from paddock.errors import RefreshFailed
    from paddock.lifecycle.catalog import require_catalog
    from paddock.lifecycle.upkeep.refresh.facts import plan_refresh

    if dry_run:
        clients = make_clients()
        plan = plan_refresh(clients, require_catalog(clients.settings, file))
        print_result(as_json, plan.to_json(), lambda: render_refresh_plan(plan))
        return 0
    # As for `onboard`: the library calls a flow only if a Prefect server is configured.
    from flows.prefect_settings import server_is_configured

    try:
        result = _as_flow(file) if server_is_configured() else _in_process(file, quiet=as_json)
    except RefreshFailed as error:
        if as_json:
            failure = {"error": error.code, "message": error.message, "cure": error.cure}
            print_result(as_json, {**failure, **error.refreshed.to_json()}, lambda: None)
            return error.exit_status
        render_refreshed(error.refreshed)
        raise
    print_result(as_json, result.to_json(), lambda: render_refreshed(result))
    return 0


def _as_flow(catalog: str | None) -> Refreshed:
    """Run the flow in this process, recorded by the configured Prefect server."""
    from flows.prefect_settings import check_prefect_settings

    check_prefect_settings()
    from flows.refresh import refresh_catalog
    from flows.run_local import run_local

    convert_other_handlers()  # those that the import of Prefect has made

    _, result = run_local(refresh_catalog, catalog=catalog)
    refreshed: Refreshed = result
    return refreshed


def _in_process(catalog: str | None, *, quiet: bool) -> Refreshed:
    """Run the same without Prefect, with the same retries. The plan is printed before anything is done."""
    from paddock.cli.logs import print_progress
    from paddock.cli.progress import ProgressBars
    from paddock.lifecycle.clients import connect_with
    from paddock.lifecycle.steps import PlainRunner
    from paddock.lifecycle.upkeep.refresh.entries import InProcessEntries
    from paddock.lifecycle.upkeep.refresh.refresh import RefreshRequest, refresh

    clients = connect_with(catalog)

    def runner_of(planned: PlannedEntry) -> PlainRunner:
        on_line = None if quiet else (lambda line: print_progress(f"{planned.entry.name}: {line}"))
        return PlainRunner(clients, listener=ProgressBars(quiet=quiet, only_lines=True), retry=True, on_line=on_line)

    def print_plan(plan: RefreshPlan) -> None:
        for planned in plan.entries:
            if planned.changes or planned.measure:
                print_progress(f"{planned.entry.name}: {planned.action.value}, {planned.reason}")

    return refresh(
        PlainRunner(clients, retry=True, on_line=None if quiet else print_progress),
        RefreshRequest(catalog),
        InProcessEntries(clients, runner_of),
        on_plan=(lambda _: None) if quiet else print_plan,
        on_outcome=(lambda _: None) if quiet else (lambda outcome: print_progress(outcome.line)),
    )
