"""The systemd units are what systemd accepts, and start commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from infra.local.state import CHECKOUT
from tests.support.pages import COMMANDS

UNITS = CHECKOUT / "infra" / "systemd"
SERVICE, TIMER = UNITS / "paddock-maintain.service", UNITS / "paddock-maintain.timer"


def test_systemd_accepts_the_units() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", SERVICE, TIMER],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_runs_commands_that_exist() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", SERVICE.read_text(), re.MULTILINE)
    commands = re.findall(r"paddock ((?:[a-z-]+ ?)+)", line)
    assert [command.split()[0] for command in commands] == ["verify", "gc"]
    for command in commands:
        name, *options = command.split()
        COMMANDS[name].make_context(name, [option for option in options if option.startswith("-")])


@pytest.mark.parametrize(
    ("verify", "gc", "status"), [(0, 0, 0), (2, 0, 2), (0, 1, 1), (2, 1, 1)], ids=["both", "damage", "gc", "neither"]
)
def test_both_commands_run_and_the_service_fails_if_one_does(verify: int, gc: int, status: int) -> None:
    (line,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", SERVICE.read_text(), re.MULTILINE)
    script = (
        f'paddock() {{ echo "$1"; test "$1" = verify && return {verify}; return {gc}; }}; {line.replace("$$", "$")}'
    )
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["verify", "gc"], status)
