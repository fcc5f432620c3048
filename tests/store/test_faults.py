"""Inject a fault at each change to the file system, kill processes at random moments, and run four at once.

A sample; `make torture` runs the program with larger counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where possible: thousands of fsyncs would wait for a disk, and no power is lost here."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path / "models"
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory) / "models"


def run(mode: str, root: Path, count: int) -> int:
    """Run a mode of the program, and return the number of injected faults. Fails when a check failed.

    `count` is the stride of the modes `crash` and `error`.
    """
    program = [sys.executable, "-m", "tests.support.volume_faults", mode, str(root), str(count)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[1].rstrip(","))


def every(stride: int) -> pytest.MarkDecorator:
    """Inject a fault at every `stride`-th change, and at every one behind `make torture`."""
    all_of_them = pytest.param(1, marks=[pytest.mark.torture, pytest.mark.timeout(1800)])
    return pytest.mark.parametrize("stride", [stride, all_of_them])


@every(4)
def test_a_process_killed_before_any_of_its_changes_leaves_a_sound_volume(root: Path, stride: int) -> None:
    assert run("crash", root, stride) > 100 // stride


@every(8)
def test_any_change_that_fails_is_a_clean_error_and_the_next_run_succeeds(root: Path, stride: int) -> None:
    assert run("error", root, stride) > 300 // stride


def test_processes_killed_at_random_leave_a_sound_volume(root: Path) -> None:
    assert run("kill", root, 20) == 20


def test_four_processes_on_one_model_leave_a_sound_volume(root: Path) -> None:
    assert run("race", root, 3) == 3


def test_concurrent_rollbacks_and_removals_promote_only_snapshots_that_exist(root: Path) -> None:
    assert run("undo", root, 3) == 3


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "count"), [("kill", 1000), ("race", 200), ("undo", 25)])
def test_the_volume_under_torture(root: Path, mode: str, count: int) -> None:
    assert run(mode, root, count) == count
