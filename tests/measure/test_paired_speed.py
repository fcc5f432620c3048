"""Rounds of two models in one engine process. Whether their speeds decide is tested on given figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.measure.paired_speed import PairedSpeed, Side, measure_pair
from tests.support.gguf import tiny_llama

PARAMETERS = Parameters(n_ctx=128, n_threads=1, n_gpu_layers=0)
SMALL = Memory(1, 1, 1, 1, "engine", devices=("CPU",))
TOO_LARGE = Memory(2**50, 1, 1, 1, "engine", devices=("CPU",))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama().write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_rounds_are_measured_until_they_decide(path: Path) -> None:
    side = Side(path, PARAMETERS, SMALL)
    seen: list[PairedSpeed] = []

    def is_decided(speed: PairedSpeed) -> bool:
        seen.append(speed)
        return len(seen) == 2

    speed = measure_pair(side, side, is_decided=is_decided)
    assert [one.rounds for one in seen] == [5, 10]
    assert speed == seen[-1]
    assert speed.decodes
    assert speed.disturbed or speed.decode is not None


def test_models_that_do_not_fit_at_once_take_turns(path: Path) -> None:
    side = Side(path, PARAMETERS, TOO_LARGE)
    speed = measure_pair(side, side, budget_s=0)
    assert speed.rounds == 5, "without a budget, the first rounds are all"
    assert speed.disturbed or speed.decode is not None
