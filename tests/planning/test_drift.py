"""Loads within the margin change nothing; others are reported and widen the margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.engine.oracle import MARGIN_BYTES
from paddock.planning.drift import MeasuredLoad, margin_bytes

MIB, GIB = 2**20, 2**30
LOADS = st.builds(
    MeasuredLoad,
    predicted_bytes=st.integers(1, 2**40),
    engine_bytes=st.integers(1, 2**40),
    system_bytes=st.none() | st.integers(1, 2**40),
)


def load(engine: int = 4 * GIB, system: int | None = 4 * GIB + 90 * MIB) -> MeasuredLoad:
    return MeasuredLoad(predicted_bytes=4 * GIB, engine_bytes=engine, system_bytes=system)


@pytest.mark.parametrize("sound", [load(), load(system=None), load(system=3 * GIB), load(engine=4 * GIB + 5 * MIB)])
def test_a_load_within_the_margin_is_no_drift(sound: MeasuredLoad) -> None:
    assert sound.drift is None
    assert margin_bytes([sound] * 3) == MARGIN_BYTES


def test_a_load_beyond_the_margin_is_reported_with_both_figures() -> None:
    held = load(system=5 * GIB)
    assert held.drift == ("the engine's process held 5.0 GiB, and 4.0 GiB with a margin of 256.0 MiB were predicted")
    assert margin_bytes([load(), held, load()]) == round(1.25 * GIB)
    took = load(engine=6 * GIB)
    assert took.drift == "the engine took 6.0 GiB, and 4.0 GiB were predicted"
    assert margin_bytes([took]) == round(2.5 * GIB)
    assert load(engine=3 * GIB).drift  # less than predicted is wrong too


@given(st.lists(LOADS, max_size=5))
def test_the_margin_covers_every_load_that_it_was_computed_from(loads: list[MeasuredLoad]) -> None:
    margin = margin_bytes(loads)
    assert margin >= MARGIN_BYTES
    for one in loads:
        assert one.predicted_bytes + margin >= max(one.engine_bytes, one.system_bytes or 0)
        assert MeasuredLoad.from_json(one.to_json()) == one
