"""Validate Prefect's settings before importing it, and find out whether a Prefect server is configured."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path

from pydantic import ValidationError

from paddock.errors import BadSetting

_VARIABLE = "PREFECT_API_URL"


def server_is_configured() -> bool:
    """Whether PREFECT_API_URL is set, in the environment or in a file that Prefect reads.

    Prefect is imported only if such a file may set it, since the import takes a second. Raises BadSetting as
    `check_prefect_settings`.
    """
    in_environment = os.environ.get(_VARIABLE)
    if in_environment is not None:
        return bool(in_environment.strip())
    if not any(_may_set_it(path) for path in _settings_files()):
        return False
    check_prefect_settings()
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def check_prefect_settings() -> None:
    """Import Prefect's settings. Raises BadSetting for a setting or a profile that Prefect refuses; the message does
    not hold the value, which may be a secret."""
    output = StringIO()
    try:
        # Prefect prints a refused setting with its value before it raises. Only its settings are imported here, since
        # its loggers would keep this stderr.
        with redirect_stderr(output):
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValueError as error:  # from pydantic, or from the TOML parser of a profile
        raise BadSetting(
            f"Prefect refuses its settings: {_reason(error)}", cure="correct the variable PREFECT_..., or the profile"
        ) from None
    print(output.getvalue(), end="", file=sys.stderr)  # noqa: T201 Prefect's own warnings


def _settings_files() -> list[Path]:
    """The files that Prefect reads its settings from (`prefect.settings.sources`)."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return [profiles, Path(".env"), Path("prefect.toml"), Path("pyproject.toml")]


def _may_set_it(path: Path) -> bool:
    """Whether a file may set PREFECT_API_URL. `profiles_path` may name another file that does."""
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8").lower()
        if path.name == "pyproject.toml":
            return "tool.prefect" in text
        return _VARIABLE.lower() in text or "profiles_path" in text or (path.name == "prefect.toml" and "url" in text)
    return False


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join([error.title, *map(str, first["loc"])])
    message = first["msg"] if first["type"] != "value_error" else "not usable"  # a validator's message may quote it
    return f"{field}: {message}"
