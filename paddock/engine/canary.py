"""The first words of a model that was just loaded: eight greedy tokens, each with logits that are finite and differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from paddock.errors import ModelRejected

CANARY_TOKENS = 8
CURE = "its weights are damaged, or this engine computes them wrongly: pull it again, or choose another file"


class Speaker(Protocol):
    """A loaded model; `native.Session` is one."""

    bos: int

    def clear(self) -> None: ...
    def decode(self, tokens: Sequence[int]) -> None: ...
    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]: ...


def canary(speaker: Speaker) -> list[int]:
    """Eight greedy tokens. Raises ModelRejected when the logits behind one are missing, not finite, or all the same."""
    speaker.clear()
    token = max(speaker.bos, 0)
    tokens: list[int] = []
    for position in range(CANARY_TOKENS):
        speaker.decode([token])
        logits = speaker.logits()
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
            f"the model was loaded, and {problem} for token {position + 1} of {CANARY_TOKENS}", cure=CURE
        )
    return tokens
