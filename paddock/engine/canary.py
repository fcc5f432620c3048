"""Canary check of a freshly loaded model: whether the engine computes numbers with it.

With a language model eight greedy tokens are generated: the logits behind each must be finite and must not all be
equal. With a model that embeds two prompts are embedded: the embeddings must be finite, not all zero, and different.
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


class EmbeddingModel(Protocol):
    """A loaded model that embeds; `bindings.Session` is one."""

    vocab_size: int

    def embed(self, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]: ...


def embedding_canary(model: EmbeddingModel) -> None:
    """Embed two prompts of three tokens. Raises ModelRejected if an embedding is missing, not finite or zero, or both
    are equal."""
    middle = model.vocab_size // 2
    first, second = (model.embed(tokens) for tokens in ([0, 1, 2], [middle, middle + 1, middle + 2]))
    if first.size == 0 or second.size == 0:
        problem = "gives no embedding"
    elif not (np.isfinite(first).all() and np.isfinite(second).all()):
        problem = "gives embeddings that are not finite"
    elif not (first.any() and second.any()):
        problem = "gives embeddings of zeros"
    elif np.array_equal(first, second):
        problem = "gives the same embedding to different prompts"
    else:
        return
    raise ModelRejected(f"the model was loaded, but {problem}", cure=CURE)


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
