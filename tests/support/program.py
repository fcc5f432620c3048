"""Run Paddock's command line, in this process or in one of its own, and capture its output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from paddock.cli.main import main
from tests.support.forked import Command


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object on one line."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        assert self.stdout.count("\n") == 1
        return value


def program(*arguments: str, before: Sequence[str] = ()) -> Outcome:
    """Run `paddock` in a process of its own; `before` is a command to run it with, such as `timeout`."""
    if before:
        line = [*before, sys.executable, "-m", "paddock", *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        return Outcome(done.returncode, done.stdout, done.stderr)
    with Command(*arguments) as command:
        stdout, stderr = command.communicate(timeout=120)
    return Outcome(command.wait(), stdout, stderr)


Paddock = Callable[..., Outcome]


@pytest.fixture
def paddock(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Paddock:
    """Run the command line in this process. Its output is that of the command alone: a test may print, too."""

    def run(*arguments: str) -> Outcome:
        printed, _ = capfd.readouterr()
        with capfd.disabled():
            print(printed, end="")
        monkeypatch.setattr(sys, "argv", ["paddock", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, out, err)

    return run
