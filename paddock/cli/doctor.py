"""The command doctor: whether Paddock can work here, and what to do where it cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import Json, make_clients
from paddock.cli.output import print_result


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Do what is safe about what is found, then check again.")] = False,
    as_json: Json = False,
) -> int:
    """Check the volume, S3, the Hub, the engine, the catalog, and the Prefect server if one is configured."""
    from flows.prefect_settings import check_prefect_settings, server_is_configured
    from paddock.cli.render_upkeep import render_diagnosis
    from paddock.lifecycle.upkeep.doctor import CHECKS, run_checks

    checks, stored = CHECKS, None
    if server_is_configured():
        check_prefect_settings()
        from flows.check_server import check_prefect, stored_secrets  # imports Prefect

        checks, stored = (*CHECKS, check_prefect), stored_secrets()
    clients = make_clients(stored=stored)
    diagnosis, fixed = run_checks(clients, checks), tuple[str, ...]()
    if fix and (fixed := diagnosis.fix()):
        diagnosis = run_checks(clients, checks)
    found = {**diagnosis.to_json(), "fixed": fixed}
    print_result(as_json, found, lambda: render_diagnosis(diagnosis, fixed))
    return 0 if diagnosis.ok else 1
