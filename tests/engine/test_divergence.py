"""The comparison of logits, against the definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddock.engine.divergence import Floats, compare_logits
from paddock.errors import ModelRejected

TOKENS, VOCABULARY = 24, 500
GENERATOR = np.random.default_rng(7)
REFERENCE = (GENERATOR.standard_normal((TOKENS, VOCABULARY)) * 4).astype(np.float32)
TARGETS = GENERATOR.integers(0, VOCABULARY, TOKENS)


def log_softmax(logits: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


@pytest.mark.parametrize("noise", [0.001, 0.1, 3.0])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_figures_are_those_of_their_definitions(noise: float, shift: float) -> None:
    model = (REFERENCE + GENERATOR.standard_normal(REFERENCE.shape) * noise + shift).astype(np.float32)
    _, found = compare_logits([REFERENCE, model], TARGETS)
    expected, other = log_softmax(REFERENCE), log_softmax(model)
    assert np.allclose(found.nll, -other[np.arange(TOKENS), TARGETS], atol=1e-4)
    assert np.allclose(found.kl, (np.exp(expected) * (expected - other)).sum(axis=1), rtol=1e-3, atol=3e-5)
    assert (found.agrees == (expected.argmax(axis=1) == other.argmax(axis=1))).all()


def test_a_model_does_not_diverge_from_itself() -> None:
    reference, same = compare_logits([REFERENCE, REFERENCE.copy()], TARGETS)
    assert (same.kl == 0).all()
    assert same.agrees.all()
    assert (same.nll == reference.nll).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number", [0, 1])
def test_logits_that_are_not_finite_are_refused(value: float, number: int) -> None:
    broken = REFERENCE.copy()
    broken[3, 5] = value
    logits = [REFERENCE, REFERENCE]
    logits[number] = broken
    with pytest.raises(ModelRejected, match=("reference", "model")[number]):
        compare_logits(logits, TARGETS)
