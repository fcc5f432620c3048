"""Inject a fault at each system call, lose power, and kill processes at random moments.

A sample; `make torture` injects every fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.hub import LocalHub, serve_hub
from tests.support.fault_server import FaultServer
from tests.support.fault_totals import Faults
from tests.support.memory_directory import memory_directory
from tests.support.tiny_hub import use_hub
from tests.support.transfer_operations import TRANSFERS, fill_hub
from tests.support.volume_operations import OPERATIONS

VOLUME = tuple(operation.name for operation in OPERATIONS)
REMOTE = tuple(operation.name for operation in TRANSFERS)
SAMPLE = (
    ("kill", (*VOLUME[::4], "transfer"), 30),
    ("error", (*VOLUME[1::4], "cache", "roll back in both stores to another variant"), 150),
    ("power", (*VOLUME[2::4], "transfer"), 3),
)
ONLY_READ = ("list",)
IN_BOTH = tuple(name for name in REMOTE if "in both stores" in name)
SLOW = {"pull": 13, "repair": 7, "restore": 7, "scrub": 7}
"""Of operations that take most of a second, behind `make torture` too, only every so many of the faults are injected.
Nearly all of their calls that change something are among those of a transfer."""


def _is_left_out(mode: str, operation: str) -> bool:
    """Whether a mode does not apply: what only reads changes nothing, and a power loss is of the volume alone."""
    return (operation in ONLY_READ and mode != "error") or (operation in IN_BOTH and mode == "power")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """A process that runs operations with faults, and a Hub for it."""
    with memory_directory() as home, pytest.MonkeyPatch.context() as patch, serve_hub(LocalHub(home / "hub")) as hub:
        use_hub(patch, hub, home)
        fill_hub(hub)
        with FaultServer(home, os.environ) as running:
            yield running


def inject(server: FaultServer, faults: Faults, mode: str, *operations: str, stride: int, only: str = "") -> int:
    """Inject every `stride`-th fault. Returns their number; fails when a check failed."""
    outcome = server.inject(mode, operations, stride=stride, only=only)
    faults.add(outcome.injected, wrong_bytes=outcome.wrong_bytes, failed=len(outcome.problems))
    assert not outcome.problems, "\n".join(outcome.problems[:20])
    return outcome.injected


@pytest.mark.parametrize(("mode", "operations", "stride"), [pytest.param(*row, id=row[0]) for row in SAMPLE])
def test_a_sample_of_all_faults_leaves_a_sound_volume_and_the_next_run_succeeds(
    server: FaultServer, faults: Faults, mode: str, operations: tuple[str, ...], stride: int
) -> None:
    assert inject(server, faults, mode, *operations, stride=stride) >= 15


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("mode", "operation"),
    [
        (mode, operation)
        for mode in ("kill", "error", "power")
        for operation in VOLUME + REMOTE
        if not _is_left_out(mode, operation)
    ],
)
def test_every_fault_leaves_a_sound_volume_and_the_next_run_succeeds(
    server: FaultServer, faults: Faults, mode: str, operation: str
) -> None:
    stride = 20 if mode == "power" else SLOW.get(operation, 1)
    assert inject(server, faults, mode, operation, stride=stride) > 0


def test_a_change_that_is_half_written_to_the_history_is_written_whole(server: FaultServer, faults: Faults) -> None:
    assert inject(server, faults, "error", "promote the first", stride=1, only="short at") > 0


def test_a_rollback_that_is_reported_as_failed_goes_no_further_back_when_it_is_repeated(
    server: FaultServer, faults: Faults
) -> None:
    assert inject(server, faults, "error", "roll back in both stores to another variant", stride=1, only="(sync") > 0


def run(mode: str, root: Path, count: int, faults: Faults) -> int:
    """Run a mode of `volume_faults`, and return the number of injected faults. Fails when a check failed."""
    program = [sys.executable, "-m", "tests.support.volume_faults", mode, str(root), str(count)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=1700, check=False)
    injected = int(done.stdout.split()[1].rstrip(","))
    faults.add(injected, wrong_bytes=done.stderr.count("wrong bytes"), failed=done.stderr.count("\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    return injected


@pytest.mark.parametrize(("mode", "count"), [("kill", 5), ("undo", 1), ("race", 20)])
def test_processes_that_are_killed_or_run_at_once_leave_a_sound_volume(
    memory: Path, faults: Faults, mode: str, count: int
) -> None:
    assert run(mode, memory / "models", count, faults) == count


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "count"), [("kill", 1000), ("race", 200), ("undo", 25)])
def test_the_volume_under_torture(memory: Path, faults: Faults, mode: str, count: int) -> None:
    assert run(mode, memory / "models", count, faults) == count
