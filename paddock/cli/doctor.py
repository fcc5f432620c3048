"""The command doctor: whether Paddock can work here, and what to do where it cannot."""

from __future__ import annotations

from collections.abc import Callable

from paddock.cli.options import Json, make_clients
from paddock.cli.output import print_result


def doctor(as_json: Json = False) -> int:
    """Check the volume, S3, the Hub, the engine, the catalog, and the Prefect server if one is configured."""
    from flows.prefect_settings import check_prefect_settings, server_is_configured
    from paddock.cli.render_upkeep import render_diagnosis
    from paddock.lifecycle.upkeep.doctor import CHECKS, run_checks

    checks = CHECKS
    if server_is_configured():
        check_prefect_settings()
        from flows.check_server import check_prefect  # imports Prefect

        checks = (*CHECKS, check_prefect)
    diagnosis = run_checks(make_clients(), checks)
    print_result(as_json, diagnosis.to_json(), lambda: render_diagnosis(diagnosis))
    return 0 if diagnosis.ok else 1


COMMANDS: dict[str, Callable[..., int]] = {"doctor": doctor}
"""The commands by their names."""
