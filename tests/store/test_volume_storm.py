"""Processes that pull, verify, evict, promote, roll back and serve variants of one model at once.

A sample of seconds; `make torture` runs sixteen of them for ten minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.hub import HubService
from tests.support.fault_totals import Faults
from tests.support.stores import MODEL
from tests.support.tiny_hub import CONFIG, Q4_K_M, tiny_model, use_hub
from tests.support.volume_checks import WRONG_BYTES

SAMPLE = ((1, "Q8_0"), (1, "Q4_K_M"), (2, "Q8_0"))
ALL = (*SAMPLE, (2, "Q4_K_M"), (3, "Q8_0"), (3, "Q4_K_M"))
"""Variants of the model: (revision, quantization)."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("processes", "seconds", "variants"),
    [
        pytest.param(4, 2, SAMPLE, id="4 processes"),
        pytest.param(16, 600, ALL, id="16 processes for ten minutes", marks=pytest.mark.torture),
    ],
)
def test_processes_at_work_on_one_volume_leave_no_torn_state_and_evict_nothing_in_use(
    monkeypatch: pytest.MonkeyPatch,
    hub: HubService,
    memory: Path,
    faults: Faults,
    processes: int,
    seconds: int,
    variants: tuple[tuple[int, str], ...],
) -> None:
    use_hub(monkeypatch, hub, memory)
    commits = {
        layers: hub.repository(str(MODEL)).commit(
            {
                "name-Q8_0.gguf": tiny_model(layers),
                "name-Q4_K_M.gguf": tiny_model(layers, file_type=Q4_K_M),
                "config.json": CONFIG,
            }
        )
        for layers in sorted({revision for revision, _ in variants})
    }
    named = [f"{commits[revision]}:{quantization}" for revision, quantization in variants]
    program = [sys.executable, "-m", "tests.support.volume_storm", str(memory / "models"), str(processes), str(seconds)]
    done = subprocess.run([*program, *named], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    problems = result["problems"]
    print(f"{processes} processes in {seconds} s: {result['done']}")
    faults.add(sum(result["done"].values()), wrong_bytes=str(problems).count(WRONG_BYTES), failed=len(problems))
    assert not problems, "\n".join(problems[:20])
    assert {"pull", "verify", "evict", "promote"} <= result["done"].keys()
    assert processes < 16 or result["done"]["evicted"] > 10
