"""Compare the logits of several models for the same tokens: likelihood, KL divergence, agreement.

Computed in float32, as logits come, with sums in float64. The difference of two log-probabilities is formed before it
is weighted, so that equal models have a divergence of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddock.errors import ModelRejected

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """One model's predictions of some tokens: the negative log likelihood of the token that came and the KL divergence
    of the reference's prediction from this one, in nats, and whether both find the same token most likely."""

    nll: Floats
    kl: Floats
    agrees: np.ndarray[Any, np.dtype[np.bool_]]


def compare_logits(logits: Sequence[Floats], targets: np.ndarray[Any, Any]) -> list[Predictions]:
    """Compare each model with the first, which is the reference.

    `logits` has an array of shape (tokens, vocabulary) for each model, `targets` the token that came after each. Raises
    ModelRejected for logits that are not finite.
    """
    for number, own in enumerate(logits):
        _require_finite(own, "model" if number else "reference")
    rows = np.arange(len(targets))
    reference, weights, log_sum = _softmax(logits[0])
    best = logits[0].argmax(axis=1)
    total = weights.sum(axis=1, dtype=np.float64)
    compared = []
    for number, own in enumerate(logits):
        shifted, _, own_log_sum = (reference, weights, log_sum) if number == 0 else _softmax(own)
        nll = own_log_sum - shifted[rows, targets]
        difference = reference - shifted
        difference += (own_log_sum - log_sum)[:, None]
        difference *= weights
        kl = difference.sum(axis=1, dtype=np.float64) / total
        agrees = own.argmax(axis=1) == best
        compared.append(Predictions(nll.astype(np.float32), np.maximum(kl, 0).astype(np.float32), agrees))
    return compared


def _require_finite(logits: Floats, what: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        sums = logits.sum(axis=1)  # of one value that is not finite, the sum is not finite either
    if not np.isfinite(sums).all():
        raise ModelRejected(
            f"the {what} gives logits that are not finite", cure="do not use it; pull it again, or choose another file"
        )


def _softmax(logits: Floats) -> tuple[Floats, Floats, Floats]:
    """(logits less the largest of their row, their exponentials, the logarithm of the exponentials' sum)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    return shifted, weights, np.log(weights.sum(axis=1, dtype=np.float64)).astype(np.float32)
