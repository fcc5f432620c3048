"""A plan fits where it says so, and more memory never makes it worse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.planning.plan import LEAST_CONTEXT, Ask, Plan, Target, Wish, longest_context, make_plan

MIB = 2**20
LONGEST = Wish(None)


def engine(weights: int = 100 * MIB, each_token: int = 32 * 1024, bend: float = 0.0) -> Ask:
    """An engine whose memory grows with the context, and with `bend` not quite in proportion."""

    def ask(parameters: Parameters) -> Memory:
        tokens = parameters.n_ctx
        return Memory(weights, int(tokens * each_token + bend * tokens**1.2), 10 * MIB, MIB, "engine")

    return ask


def plan(ask: Ask, memory_bytes: int, wish: Wish = LONGEST, *, trained: int | None = 32_768) -> Plan:
    return make_plan(ask, Target(memory_bytes), wish, trained=trained, layers=32, threads=2)


@given(
    memory_bytes=st.integers(0, 4096 * MIB),
    each_token=st.integers(0, 256 * 1024),
    bend=st.floats(0, 5000),
    parallel=st.integers(1, 4),
)
def test_what_a_plan_says_fits_fits_and_is_the_longest_but_for_a_step(
    memory_bytes: int, each_token: int, bend: float, parallel: int
) -> None:
    ask = engine(each_token=each_token, bend=bend)
    made = plan(ask, memory_bytes, Wish(None, parallel))
    assert made.fits == Target(memory_bytes).holds(made.memory.total_bytes)
    assert made.memory == ask(made.parameters)
    if not made.fits:
        least = ask(Parameters(n_ctx=LEAST_CONTEXT * parallel, n_threads=1))
        assert not Target(memory_bytes).holds(least.total_bytes)


@given(st.integers(300 * MIB, 3000 * MIB), st.integers(0, 500 * MIB), st.floats(0, 5000))
def test_more_memory_never_makes_it_much_shorter(memory_bytes: int, more_bytes: int, bend: float) -> None:
    ask = engine(bend=bend)
    less, more = plan(ask, memory_bytes), plan(ask, memory_bytes + more_bytes)
    if less.fits:
        assert more.fits
        assert more.parameters.n_ctx >= less.parameters.n_ctx - 1024


def test_the_trained_context_is_taken_where_it_fits_and_the_rest_is_told_where_not() -> None:
    assert plan(engine(), 4096 * MIB).parameters.n_ctx == 32_768
    made = plan(engine(), 600 * MIB)
    assert made.fits
    assert made.parameters.n_ctx == (600 * MIB - MARGIN_BYTES - 111 * MIB) // (32 * 1024) // 256 * 256
    assert made.given_up == (f"context: {made.parameters.n_ctx} tokens of the 32768 that it was trained for",)


def test_a_context_that_is_asked_for_is_kept_or_does_not_fit() -> None:
    made = plan(engine(), 600 * MIB, Wish(16_384))
    assert (made.fits, made.parameters.n_ctx) == (False, 16_384)
    assert made.given_up == ("279.0 MiB are missing",)
    tokens = longest_context(engine(), Target(600 * MIB), made)
    assert tokens is not None
    assert plan(engine(), 600 * MIB, Wish(tokens)).fits
    assert not plan(engine(), 600 * MIB, Wish(tokens + 256)).fits
    assert longest_context(engine(), Target(100 * MIB), made) is None


def test_more_context_than_it_was_trained_for_is_refused() -> None:
    with pytest.raises(ConflictingConfiguration, match="trained for 32768 tokens of context, and 40000"):
        plan(engine(), 4096 * MIB, Wish(40_000))


@pytest.mark.parametrize(
    ("vram", "layers"),
    [((), 0), ((4096 * MIB,), -1), ((300 * MIB, 300 * MIB), 24), ((1,), 0)],
    ids=["no GPU", "all of it", "a part of it on two", "none of it"],
)
def test_as_many_layers_as_fit_go_to_the_gpus(vram: tuple[int, ...], layers: int) -> None:
    target = Target(8192 * MIB, vram)
    made = make_plan(engine(), target, Wish(11_000), trained=32_768, layers=32, threads=2)
    assert made.parameters.n_gpu_layers == layers
