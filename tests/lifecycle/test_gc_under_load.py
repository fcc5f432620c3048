"""`gc` with a small budget, while other processes serve, pull, promote, roll back and pin: nothing in use goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.hub import HubService
from tests.support.seed import seed
from tests.support.tiny_hub import NAME, tiny_model, use_hub

__all__ = ["seed"]


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=[pytest.mark.torture, pytest.mark.timeout(600)])])
def test_nothing_in_use_is_evicted_under_load(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path, seconds: int, seed: int
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    commits = [hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(layers)}) for layers in (1, 2, 3)]
    if seconds < 60:  # a pull starts two processes of the engine
        commits = []
    command = [sys.executable, "-m", "tests.support.gc_load", str(tmp_path), str(seconds), str(seed), *commits]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert " 0 wrong: " in done.stdout
