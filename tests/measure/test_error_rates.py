"""Which failures are more than before, and more than chance explains."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate
from math import comb

import pytest

from paddock.lifecycle.watch.judge import WORSE_P
from paddock.measure.error_rates import (
    ErrorRate,
    error_rate,
    fisher_p,
    poisson_tail,
    worse_errors_p,
    worse_strikes_p,
)
from paddock.serving.observations import ObservedAnswer

SOUND = ObservedAnswer(0.0, 1.0)
FAILED = ObservedAnswer(0.0, 1.0, "engine_error", "prompt")
CUT_OFF = replace(FAILED, failure="engine_died", died=True)


def rate(failed: int, answers: int) -> ErrorRate:
    return ErrorRate(answers, failed, failed)


@pytest.mark.parametrize(
    ("failed", "answers", "before_failed", "before_answers", "is_worse"),
    [
        pytest.param(12, 12, 0, 340, True, id="all-fail"),
        pytest.param(3, 3, 0, 340, True, id="the-first-three-fail"),
        pytest.param(3, 3, 0, 0, True, id="the-first-three-fail-and-nothing-is-known-of-before"),
        pytest.param(3, 3, 0, 5, True, id="the-first-three-fail-and-little-is-known-of-before"),
        pytest.param(2, 2, 0, 340, False, id="two-are-too-few"),
        pytest.param(1, 1, 0, 1000, False, id="one-is-too-few"),
        pytest.param(3, 40, 0, 340, False, id="three-of-forty-may-be-chance"),
        pytest.param(3, 3, 5, 5, False, id="it-failed-before-too"),
        pytest.param(30, 30, 300, 340, False, id="most-failed-before-too"),
        pytest.param(60, 100, 100, 340, True, id="twice-as-many"),
        pytest.param(40, 1000, 0, 1000, True, id="four-percent"),
        pytest.param(8, 1000, 0, 4000, False, id="below-the-floor"),
        pytest.param(20, 1000, 18, 1000, False, id="as-before"),
        pytest.param(0, 500, 400, 500, False, id="better"),
    ],
)
def test_failures_are_worse_where_chance_does_not_explain_them(
    failed: int, answers: int, before_failed: int, before_answers: int, is_worse: bool
) -> None:
    p = worse_errors_p(rate(failed, answers), rate(before_failed, before_answers))
    assert 0 <= p <= 1
    assert (p < WORSE_P) is is_worse


def test_fishers_test_is_that_of_the_tea_tasting() -> None:
    """R. Fisher, The Design of Experiments, 1935: all four of eight, and at least three of four."""
    assert fisher_p(4, 4, 0, 4) == pytest.approx(1 / comb(8, 4))
    assert fisher_p(3, 4, 1, 4) == pytest.approx(17 / comb(8, 4))
    assert fisher_p(0, 4, 4, 4) == pytest.approx(1)


def test_equal_revisions_are_rarely_found_worse_although_each_answer_is_a_look() -> None:
    """Both fail one request in a hundred. A look after each answer finds more than one look does."""
    random.seed(7)
    found = 0
    for _ in range(300):
        before = rate(sum(random.random() < 0.01 for _ in range(300)), 300)
        fails = list(accumulate(random.random() < 0.01 for _ in range(200)))
        found += any(worse_errors_p(rate(fails[n], n + 1), before) < WORSE_P for n in range(0, 200, 5))
    assert found <= 3


def test_what_one_lost_engine_cut_off_is_one_failure() -> None:
    answers = [replace(CUT_OFF, request=str(number)) for number in range(8)] + [SOUND] * 2
    assert error_rate(answers, restarts=1) == ErrorRate(10, 8, 1)
    assert error_rate(answers, restarts=0) == ErrorRate(10, 8, 8), "the engine runs on: each is a fault of its own"
    twice = answers + [replace(answer, restart=1) for answer in answers]
    assert error_rate(twice, restarts=2) == ErrorRate(20, 16, 2)


def test_a_request_that_is_repeated_counts_three_times_at_most() -> None:
    rate = error_rate([FAILED] * 50 + [SOUND] * 100 + [replace(FAILED, request="other")], restarts=0)
    assert (rate.answers, rate.failed, rate.counted, rate.total) == (151, 51, 4, 104)


@pytest.mark.parametrize(
    ("strikes", "served_s", "before", "before_s", "is_worse"),
    [
        pytest.param(2, 30.0, 0, 3600.0, True, id="two-in-half-a-minute"),
        pytest.param(2, 900.0, 0, 0.0, True, id="two-in-a-quarter-of-an-hour"),
        pytest.param(1, 1.0, 0, 3600.0, False, id="one"),
        pytest.param(2, 900.0, 8, 3600.0, False, id="as-often-before"),
        pytest.param(2, 86_400.0, 0, 3600.0, False, id="two-in-a-day"),
    ],
)
def test_an_engine_that_is_lost_twice_in_a_short_time_is_worse(
    strikes: int, served_s: float, before: int, before_s: float, is_worse: bool
) -> None:
    assert (worse_strikes_p(strikes, served_s, before, before_s) < WORSE_P) is is_worse


def test_the_tail_of_poissons_distribution() -> None:
    assert poisson_tail(0, 2.0) == 1
    assert poisson_tail(3, 2.0) == pytest.approx(0.3233, abs=1e-4)
