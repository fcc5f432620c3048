"""Loads within the margin change nothing; others are reported and widen the margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.engine.oracle import MARGIN_BYTES
from paddock.planning.drift import MAX_MARGIN_BYTES, MeasuredLoad, margin_bytes

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
    assert MARGIN_BYTES <= margin <= MAX_MARGIN_BYTES
    for one in loads:
        covered = one.predicted_bytes + margin >= max(one.engine_bytes, one.system_bytes or 0)
        assert covered or one.excess_bytes > MAX_MARGIN_BYTES / 1.25
        assert MeasuredLoad.from_json(one.to_json()) == one


HOSTILE = {
    "no memory at all": {"predicted_bytes": 0, "engine_bytes": 0, "system_bytes": 0},
    "less than nothing": {"predicted_bytes": -1, "engine_bytes": 5, "system_bytes": None},
    "texts": {"predicted_bytes": "5", "engine_bytes": "5", "system_bytes": "5"},
    "truth values": {"predicted_bytes": True, "engine_bytes": True, "system_bytes": True},
    "numbers without an end": {"predicted_bytes": float("inf"), "engine_bytes": float("nan"), "system_bytes": 1e999},
    "more than any machine has": {"predicted_bytes": 2**60, "engine_bytes": 2**61, "system_bytes": 10**40},
    "lists": {"predicted_bytes": [1], "engine_bytes": {}, "system_bytes": []},
    "nothing": {},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_an_observation_that_is_none_is_refused(value: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        MeasuredLoad.from_json(value)


@pytest.mark.parametrize("excess", [2**33, 2**40, 2**49])
def test_an_excess_that_no_load_has_does_not_stop_the_plans_for_a_model(excess: int) -> None:
    planted = MeasuredLoad(predicted_bytes=MIB, engine_bytes=MIB + excess, system_bytes=None)
    assert margin_bytes([planted]) == MARGIN_BYTES
    assert margin_bytes([load(engine=2**49), planted]) == MARGIN_BYTES
