"""Paired quality: exact tests against scipy and known values, and the ratio with its floor on given figures."""

from __future__ import annotations

from math import comb, fsum, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.measure.likelihood import Comparison, TokenLikelihoods
from paddock.measure.paired import (
    DISAGREEMENT_FLOOR,
    KL_FLOOR,
    PairedQuality,
    binomial_tail,
    compare_quality,
    mcnemar_p,
)

TOKENS = 255 * 22


def figures(kl: float, disagreements: int, *, seed: int = 0, nll: float = 3.0) -> TokenLikelihoods:
    """Made-up figures of one model: `kl` on average, with `disagreements` at the first tokens."""
    generator = np.random.default_rng(seed)
    agrees = np.ones(TOKENS, np.bool_)
    agrees[:disagreements] = False
    values = generator.exponential(kl, TOKENS) if kl else np.zeros(TOKENS)
    return TokenLikelihoods(np.full(TOKENS, nll, np.float32), values.astype(np.float32), agrees)


REFERENCE = figures(0, 0)


def compare(candidate: TokenLikelihoods, promoted: TokenLikelihoods | None = None) -> PairedQuality:
    candidates = (candidate, promoted) if promoted else (candidate,)
    return compare_quality(Comparison((("text", 22 * 512, TOKENS),), REFERENCE, candidates))


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (7, 0, 1 / 128),
        (0, 7, 1.0),
        (5, 5, 638 / 1024),
        (8, 2, 56 / 1024),
    ],
    ids=str,
)
def test_mcnemar_is_exact(lost: int, gained: int, p: float) -> None:
    assert mcnemar_p(lost, gained) == pytest.approx(p, rel=1e-9)


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.001, DISAGREEMENT_FLOOR, 0.5, 0.9]))
def test_a_binomial_tail_is_the_sum_of_its_terms(trials: int, part: float, share: float) -> None:
    successes = round(part * trials)
    terms = (comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(successes, trials + 1))
    assert binomial_tail(successes, trials, share) == pytest.approx(fsum(terms), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "trials", "share", "p"),
    [
        (141, 5610, DISAGREEMENT_FLOOR, 0.48607170114971765),
        (180, 5610, DISAGREEMENT_FLOOR, 0.0006136889493848939),
        (100, 5610, DISAGREEMENT_FLOOR, 0.9998733185219046),
        (1700, 65_000, DISAGREEMENT_FLOOR, 0.03130615908898694),
        (10_100, 20_000, 0.5, 0.07969171799236709),
        (1500, 5610, DISAGREEMENT_FLOOR, 0.0),
    ],
    ids=str,
)
def test_binomial_tails_of_many_trials_are_those_of_scipy(successes: int, trials: int, share: float, p: float) -> None:
    assert binomial_tail(successes, trials, share) == pytest.approx(p, rel=1e-6)


def test_equal_weights_have_a_ratio_of_exactly_one() -> None:
    other = figures(0.03, 300)
    for compared in (compare(other, other), compare(REFERENCE)):
        assert (compared.kl_ratio.value, *compared.kl_ratio.ci95) == (1, 1, 1)
        assert (compared.perplexity_ratio.value, *compared.perplexity_ratio.ci95) == (1, 1, 1)
        assert (compared.lost, compared.gained, compared.worse_p) == (0, 0, 1)


def test_differences_below_the_floor_are_equal() -> None:
    noise = compare(figures(KL_FLOOR / 2, round(TOKENS * DISAGREEMENT_FLOOR)))
    assert noise.kl > 0
    assert noise.promoted_kl == 0
    assert noise.kl_ratio.ci95 == (1, 1)
    assert noise.lost > 100
    assert noise.worse_p > 0.4


def test_a_loss_against_a_promoted_reference_is_counted_from_the_floor() -> None:
    worse = compare(figures(0.1, 1500))
    assert worse.kl_ratio.value == pytest.approx(worse.kl / KL_FLOOR)
    assert worse.kl_ratio.low > 40
    assert worse.worse_p < 1e-100


def test_both_against_a_third_are_paired() -> None:
    """What is hard for both moves both figures: the paired interval is narrower than either mean's own."""
    generator = np.random.default_rng(1)
    hard = generator.exponential(1.0, TOKENS) * np.repeat(generator.exponential(1.0, 22), 255)
    promoted = figures(0, 100)
    candidate = figures(0, 130)
    promoted = TokenLikelihoods(promoted.nll, (0.05 * hard).astype(np.float32), promoted.agrees)
    candidate = TokenLikelihoods(candidate.nll, (0.06 * hard).astype(np.float32), candidate.agrees)
    compared = compare(candidate, promoted)
    low, high = compared.kl_ratio.ci95
    assert low == pytest.approx(1.2, rel=0.01)
    assert high == pytest.approx(1.2, rel=0.01)
    assert (compared.lost, compared.gained) == (30, 0)
    assert compared.worse_p > 0.1, "2.3 % is no more than rounding, though McNemar finds a difference"


def test_an_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(25):
        compared = compare(figures(0.03, 0, seed=seed), figures(0.02, 0, seed=seed + 1000))
        low, high = compared.kl_ratio.ci95
        covered += low <= 1.5 <= high
    assert covered >= 21


def test_the_perplexity_ratio_is_that_of_the_perplexities() -> None:
    compared = compare(figures(0, 0, nll=3.1), figures(0, 0, nll=3.0))
    assert log(compared.perplexity_ratio.value) == pytest.approx(0.1, rel=1e-5)
    assert compared.perplexity / compared.promoted_perplexity == pytest.approx(compared.perplexity_ratio.value)
