"""The analytic estimate compared with the engine's figures, for published models.

A sample: a model for each kind of layer and cache. `make torture` has all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from paddock.engine.oracle import Memory, measure_header
from paddock.engine.parameters import Parameters
from paddock.gguf.reader import read_header
from paddock.planning.footprint import footprint
from tests.support.memory import MemorySource
from tests.support.published import PUBLISHED_MODELS
from tests.support.published_model import PublishedModel

TOKENS = 8192
DOCUMENT = Path(__file__).parents[2] / "docs" / "memory.md"
COMMON = Parameters(n_ctx=TOKENS, n_threads=1, swa_full=False, use_extra_bufts=False)
SETTINGS = (
    COMMON,
    replace(COMMON, swa_full=True),
    replace(COMMON, n_ctx=65_536, type_k="q8_0", type_v="q8_0", flash_attn="on"),
    replace(COMMON, n_ctx=4 * TOKENS, n_seq_max=4),
)


SAMPLE = ("Mixtral 8x7B", "Phi-3 mini", "Command R7B", "DeepSeek V2 Lite", "Mamba 2.8B", "RWKV-7 2.9B", "LFM2 1.2B")
NAMES = [pytest.param(one.name, marks=[] if one.name in SAMPLE else [pytest.mark.torture]) for one in PUBLISHED_MODELS]


@dataclass(frozen=True)
class Compared:
    model: PublishedModel
    measured: tuple[Memory, ...]
    estimated: tuple[Memory, ...]

    def errors(self, number: int) -> tuple[float, float, float]:
        """Relative errors of (weights, cache, compute)."""
        measured, estimated = self.measured[number], self.estimated[number]
        return (
            estimated.weights_bytes / measured.weights_bytes - 1,
            estimated.kv_cache_bytes / measured.kv_cache_bytes - 1,
            estimated.compute_bytes / measured.compute_bytes - 1,
        )

    def row(self) -> str:
        measured = self.measured[0]
        weights, cache, compute = self.errors(0)
        return (
            f"| {self.model.name} | `{self.model.architecture}` | {measured.weights_bytes / 2**30:.2f} | {weights:+.2%}"
            f" | {measured.kv_cache_bytes / 2**20:.1f} | {cache:+.2%}"
            f" | {measured.compute_bytes / 2**20:.0f} | {compute:+.0%} |"
        )


@cache
def compare(name: str) -> Compared:
    (model,) = (one for one in PUBLISHED_MODELS if one.name == name)
    head, size = model.header()
    ours = footprint(read_header(MemorySource(head, size)))
    measured = measure_header([(head, size)], SETTINGS)
    return Compared(model, tuple(measured), tuple(map(ours.estimate, SETTINGS)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=["window", "full window", "long and q8_0", "four at once"])
def test_errors_are_below_five_per_cent_for_weights_and_cache_and_a_quarter_for_compute(name: str, number: int) -> None:
    weights, cache, compute = compare(name).errors(number)
    assert abs(weights) < 0.05
    assert abs(cache) < 0.05
    assert abs(compute) < 0.25


EVERY = [SAMPLE, pytest.param(tuple(one.name for one in PUBLISHED_MODELS), marks=pytest.mark.torture)]


@pytest.mark.parametrize("names", EVERY, ids=["sample", "all"])
def test_half_of_all_estimates_are_within_two_per_cent(names: tuple[str, ...]) -> None:
    for part in range(2):
        assert median(abs(compare(name).errors(0)[part]) for name in names) < 0.02


@pytest.mark.parametrize("names", EVERY, ids=["sample", "all"])
def test_the_table_in_the_documentation_matches_the_measurement(names: tuple[str, ...]) -> None:
    columns = 8  # the document has other tables too
    written = [line for line in DOCUMENT.read_text().splitlines() if line.count("|") == columns + 1 and "`" in line]
    assert [line.split(" | ")[0] for line in written] == [f"| {one.name}" for one in PUBLISHED_MODELS]
    rows = [compare(name).row() for name in names]
    assert [row for row in rows if row not in written] == []


def test_enough_architectures_are_covered() -> None:
    assert len({one.architecture for one in PUBLISHED_MODELS}) >= 16
