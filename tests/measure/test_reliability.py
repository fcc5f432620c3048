"""Whether a benchmark can be believed: by its spread, by other load, and by what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddock.measure.benchmark import benchmark
from paddock.measure.reliability import doubts
from tests.support.busy import busy_processes
from tests.support.gguf import tiny_llama

QUIET: dict[str, Any] = {"cores": 4, "other_cores": 0.1, "frequency_change": 0.01, "throttled": False}
SOUND: dict[str, Any] = {
    "spreads": {"prefill": 0.04, "decode": 0.09},
    "disturbance": QUIET,
    "on_gpu": False,
    "weights_bytes": 10**9,
    "read_bytes_per_s": 8e9,
    "bandwidth_bytes_per_s": 10 * 10**9,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            {"spreads": {"prefill": 0.02, "decode": 0.3}}, "the repetitions of the decode differ by 30%", id="spread"
        ),
        pytest.param({"disturbance": {**QUIET, "other_cores": 0.6}}, "other processes used 0.6 of 4 cores", id="load"),
        pytest.param({"disturbance": {**QUIET, "throttled": True}}, "was slowed down", id="throttled"),
        pytest.param({"disturbance": {**QUIET, "frequency_change": -0.2}}, "clocked 20% slower", id="clock"),
        pytest.param({"read_bytes_per_s": 12e9}, "decode read 12.0 GB/s, more than the memory's 10.0", id="bandwidth"),
        pytest.param(
            {"on_gpu": True, "disturbance": {**QUIET, "other_cores": 3.5}},
            "other processes used 3.5",
            id="beside a GPU",
        ),
    ],
)
def test_each_disturbance_is_a_doubt(change: dict[str, Any], reason: str) -> None:
    (doubt,) = doubts(**{**SOUND, **change})
    assert reason in doubt


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="a quiet machine"),
        pytest.param({"spreads": {"prefill": None}}, id="one repetition"),
        pytest.param(
            {"disturbance": {"other_cores": None, "frequency_change": None, "throttled": False}}, id="unknown"
        ),
        pytest.param({"disturbance": {}}, id="nothing reported"),
        pytest.param({"on_gpu": True, "disturbance": {**QUIET, "other_cores": 1.5}}, id="load beside a GPU"),
        pytest.param({"weights_bytes": 10**7, "read_bytes_per_s": 50e9}, id="weights in the cache"),
        pytest.param({"read_bytes_per_s": None}, id="no decode"),
        pytest.param({"bandwidth_bytes_per_s": None}, id="an unknown bandwidth"),
    ],
)
def test_what_is_sound_or_not_known_is_no_doubt(change: dict[str, Any]) -> None:
    assert doubts(**{**SOUND, **change}) == ()


def test_a_benchmark_beside_two_busy_processes_is_not_reliable(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    with busy_processes(2):
        measured = benchmark(path, threads=1, context_tokens=256, n_prompt=128, n_gen=64)
    assert not measured.reliable
    assert any("other processes used" in doubt for doubt in measured.doubts)
    assert measured.to_json()["reliable"] is False
    assert ("not reliable", "; ".join(measured.doubts), "") in measured.rows()
    assert "not reliable" in measured.line
