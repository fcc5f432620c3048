"""Canary check of a freshly loaded model: generate eight greedy tokens and validate the logits behind each.

The logits must be finite and must not all be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from paddock.errors import ModelRejected

CANARY_TOKENS = 8
CURE = "its weights are damaged, or this engine computes them wrongly: pull it again, or choose another file"


class LoadedModel(Protocol):
    """A loaded model with an empty or reusable context; `bindings.Session` is one.

    `bos` is the id of the beginning-of-text token, negative where the vocabulary has none.
    """

    bos: int

    def clear(self) -> None: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]: ...


def canary(model: LoadedModel) -> list[int]:
    """Generate CANARY_TOKENS greedy tokens from an empty context, and return their ids.

    Raises ModelRejected if the logits of a token are missing, not finite, or all equal.
    """
    model.clear()
    token = max(model.bos, 0)
    tokens: list[int] = []
    for position in range(CANARY_TOKENS):
        model.decode([token])
        logits = model.logits()
        if logits.size == 0:
            problem = "gives no logits"
        elif not np.isfinite(logits).all():
            problem = "gives logits that are not finite"
        elif logits.min() == logits.max():
            problem = "gives the same logit to every token"
        else:
            token = int(logits.argmax())
            tokens.append(token)
            continue
        raise ModelRejected(
            f"the model was loaded, but {problem} for token {position + 1} of {CANARY_TOKENS}", cure=CURE
        )
    return tokens
