"""What Prefect reads of its surroundings while it is imported, looked at before.

Everything else of Prefect that `paddock onboard` needs is imported after this.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stderr
from io import StringIO

from pydantic import ValidationError

from paddock.errors import BadSetting


def check_prefect_settings() -> None:
    """Raises BadSetting, without the value, for a setting or a profile that Prefect refuses."""
    said = StringIO()
    try:
        # Prefect prints what it refuses, with the value, and goes on to raise. Only its settings are imported here: its
        # loggers would keep this stderr.
        with redirect_stderr(said):
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValueError as error:  # of pydantic, or of the TOML of a profile
        raise BadSetting(
            f"Prefect refuses its settings: {_reason(error)}", cure="correct the variable PREFECT_..., or the profile"
        ) from None
    print(said.getvalue(), end="", file=sys.stderr)  # noqa: T201 Prefect's own words


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join([error.title, *map(str, first["loc"])])
    said = first["msg"] if first["type"] != "value_error" else "not usable"  # a validator's own words may quote it
    return f"{field}: {said}"
