"""The command doctor: whether Paddock can work here, and what to do where it cannot."""

from __future__ import annotations

from collections.abc import Callable

from paddock.cli.options import Json, make_clients
from paddock.cli.output import print_result


def doctor(as_json: Json = False) -> int:
    """Check the volume, S3, the Hub, the engine and the catalog."""
    from paddock.cli.render_upkeep import render_diagnosis
    from paddock.lifecycle.upkeep.doctor import CHECKS, run_checks

    diagnosis = run_checks(make_clients(), CHECKS)
    print_result(as_json, diagnosis.to_json(), lambda: render_diagnosis(diagnosis))
    return 0 if diagnosis.ok else 1


COMMANDS: dict[str, Callable[..., int]] = {"doctor": doctor}
"""The commands by their names."""
