"""Deaths at the points of a copy: a sample; `make torture` has every point."""

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
    """In memory where that can be had, as for the faults of the volume."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


def every(mode: str, stride: int, least: int, *, torture: bool = False) -> object:
    """A death at each `stride`-th point, and how many that are at least."""
    name = f"{mode}, every point" if torture else f"{mode}, a sample"
    return pytest.param(mode, stride, least, id=name, marks=[pytest.mark.torture] if torture else [])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("mode", "stride", "least"),
    [
        every("push", 6, 2),
        every("change", 5, 9),
        every("restore", 45, 2),
        every("push", 1, 10, torture=True),
        every("change", 1, 50, torture=True),
        every("restore", 1, 80, torture=True),
    ],
)
def test_a_death_in_a_copy_is_never_seen_and_the_next_run_repairs_it(
    s3: S3Server, root: Path, mode: str, stride: int, least: int
) -> None:
    environment = {**os.environ, **s3.environment, "PADDOCK_S3_URI": f"s3://{s3.bucket}/{secrets.token_hex(4)}"}
    program = [sys.executable, "-m", "tests.support.copy_faults", mode, str(root), str(stride)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{mode}: {done.stdout.strip()}")
    assert int(done.stdout.split()[1].rstrip(",")) >= least
