"""Kill a copy at each of its steps: a sample; `make torture` has every step."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from tests.store.test_faults import MEMORY


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where possible, as in `test_faults`."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


def every(mode: str, stride: int, least: int, *, torture: bool = False) -> object:
    """Kill at each `stride`-th step; at least `least` steps in all."""
    name = f"{mode}, every step" if torture else f"{mode}, a sample"
    return pytest.param(mode, stride, least, id=name, marks=[pytest.mark.torture] if torture else [])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("mode", "stride", "least"),
    [
        every("push", 6, 2),
        every("change", 13, 3),
        every("restore", 60, 1),
        every("push", 1, 10, torture=True),
        every("change", 1, 50, torture=True),
        every("restore", 1, 80, torture=True),
    ],
)
def test_a_killed_copy_shows_nothing_broken_and_the_next_run_completes_it(
    s3: S3Server, root: Path, mode: str, stride: int, least: int
) -> None:
    environment = {**os.environ, **s3.environment, "PADDOCK_S3_URI": f"s3://{s3.bucket}/{secrets.token_hex(4)}"}
    program = [sys.executable, "-m", "tests.support.copy_faults", mode, str(root), str(stride)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{mode}: {done.stdout.strip()}")
    assert int(done.stdout.split()[1].rstrip(",")) >= least
