"""The command line as a program of its own, and what it said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """What was printed, which must be one JSON object on one line."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        assert self.stdout.count("\n") == 1
        return value


def program(*arguments: str, before: Sequence[str] = ()) -> Outcome:
    """Run `paddock` in this environment; `before` is the command that starts it."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "paddock", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
