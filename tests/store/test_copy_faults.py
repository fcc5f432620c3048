"""Kill a copy to S3 before its requests: a sample; `make torture` has every request."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from tests.support.fault_totals import Faults


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("stride", "kills"),
    [pytest.param(6, 1, id="one"), pytest.param(1, 100, id="every request", marks=pytest.mark.torture)],
)
def test_a_killed_copy_shows_nothing_broken_and_the_next_run_completes_it(
    s3: S3Server, memory: Path, faults: Faults, stride: int, kills: int
) -> None:
    environment = {**os.environ, **s3.environment, "PADDOCK_S3_URI": f"s3://{s3.bucket}/{secrets.token_hex(4)}"}
    program = [sys.executable, "-m", "tests.support.copy_faults", str(memory / "models"), str(stride), str(kills)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=1700, check=False)
    injected = int(done.stdout.split()[1].rstrip(","))
    faults.add(injected, wrong_bytes=done.stderr.count("wrong bytes"), failed=done.stderr.count("\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert injected >= min(kills, 10)
