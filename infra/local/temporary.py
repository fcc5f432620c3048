"""Make the temporary directory of the stack's workers, and remove it with all that a killed process left there.

Prefect writes the environment of each run, which has its secrets, to a file there that only its user can read, and
removes it when the run has ended, but not where the worker is killed. The directory is not below the state directory:
sockets need short paths, and the engine's own user must be able to reach them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from infra.local.state import read_state, write_state


def make_temporary_directory(state: Path) -> Path:
    """A new directory for this start of the stack. One that an earlier start left is removed."""
    remove_temporary_directory(state)
    path = Path(tempfile.mkdtemp(prefix="paddock-stack-"))
    path.chmod(0o711)
    write_state(_record(state), {"path": str(path)})
    return path


def remove_temporary_directory(state: Path) -> None:
    """Remove the directory that the last start made, if it is still there."""
    path = read_state(_record(state)).get("path")
    if path:
        shutil.rmtree(path, ignore_errors=True)
    _record(state).unlink(missing_ok=True)


def _record(state: Path) -> Path:
    return state / "temporary.json"
