"""Command refresh: make what is promoted follow the catalog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from paddock.cli.options import Json, make_clients
from paddock.cli.output import print_result


def refresh(
    file: Annotated[
        str | None, typer.Option("--catalog", metavar="FILE", help="By default that of PADDOCK_CATALOG.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and do nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Make what is promoted follow the catalog: print the plan, then carry it out."""
    from paddock.cli.render_upkeep import render_refresh_plan
    from paddock.lifecycle.catalog import require_catalog
    from paddock.lifecycle.upkeep.refresh.facts import plan_refresh

    clients = make_clients()
    catalog = require_catalog(clients.settings, file)
    plan = plan_refresh(clients, catalog)
    if not dry_run:
        raise typer.BadParameter("only --dry-run is there")
    print_result(as_json, plan.to_json(), lambda: render_refresh_plan(plan))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"refresh": refresh}
"""The commands by their names."""
