"""Compare models on a text, token by token, in the engine's child process.

The first model is the *reference*. Each text is cut into chunks of `chunk_tokens`; in each, the first half is context,
and the tokens of the second half are predicted: the way of llama.cpp's `llama-perplexity`, so that figures compare.

Logits are compared as soon as they are computed, and dropped. An engine computes at most `_LOGITS_BYTES` of them at
once, so that memory does not grow with the text, and hardly with the vocabulary.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from paddock.engine.bindings import Session
from paddock.engine.divergence import Floats, Predictions, compare_logits
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.engine.process_memory import peak_rss_bytes
from paddock.errors import BadSetting, ConflictingConfiguration

_LOGITS_BYTES = 128 * 2**20
_BLOCK_BYTES = 16 * 2**20
"""Size of the logits that one thread compares at once; its intermediate results take several times as much."""


@dataclass(slots=True)
class _Figures:
    """Figures of each predicted token. For the reference, `kl` and `agrees` stay empty."""

    nll: list[Floats] = field(default_factory=list)
    kl: list[Floats] = field(default_factory=list)
    agrees: list[np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=list)

    def to_json(self) -> dict[str, str]:
        return {
            "nll": _encoded(self.nll, np.float32),
            "kl": _encoded(self.kl, np.float32),
            "agrees": _encoded(self.agrees, np.uint8),
        }


def output_tokens(vocab_size: int) -> int:
    """Return how many tokens' logits an engine computes at once: a power of two from 16 to 512."""
    most = _LOGITS_BYTES // (4 * vocab_size)
    return max(16, min(512, 1 << max(most.bit_length() - 1, 0)))


def compare(
    models: Sequence[tuple[Sequence[str], Parameters]], texts: Sequence[str], *, chunk_tokens: int, limit_tokens: int
) -> dict[str, Any]:
    """Predict the texts with each model. Of `models`, (paths of the shards, parameters), the first is the reference.

    Returns `{"texts": [{"tokens", "chunks"}, ...], "models": [{"nll", "kl", "agrees"}, ...], "peak_rss_bytes"}`. The
    figures are base64 of little-endian arrays with one value for each predicted token, in the order of the texts: the
    negative log likelihood in nats and the KL divergence of the reference from the model in nats (float32), and whether
    the model's most likely token is that of the reference (uint8). At most `limit_tokens` tokens of all texts are used,
    the same number of chunks of each as far as they go.

    Raises ConflictingConfiguration for models whose vocabularies tokenize the texts differently, BadSetting for texts
    of less than one chunk, and ModelRejected for a model with logits that are not finite.
    """
    log = Log()
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(Session(paths, _bounded(parameters, chunk_tokens), log)) for paths, parameters in models
        ]
        tokens = _same_tokens(sessions, texts)
        counts = _chunk_counts([len(one) // chunk_tokens for one in tokens], limit_tokens // chunk_tokens)
        if not sum(counts):
            longest = max(map(len, tokens), default=0)
            raise BadSetting(
                f"the text has {longest} tokens, and at least {chunk_tokens} are needed", cure="use a longer text"
            )
        width = min(output_tokens(session.vocab_size) for session in sessions)
        for session, (_, parameters) in zip(sessions, models, strict=True):
            session.replace_context(replace(_bounded(parameters, chunk_tokens), n_ubatch=width, n_batch=width), log)
        figures = [_Figures() for _ in sessions]
        pool = stack.enter_context(ThreadPoolExecutor(max(parameters.n_threads for _, parameters in models)))
        for text, count in zip(tokens, counts, strict=True):
            for number in range(count):
                chunk = text[number * chunk_tokens : (number + 1) * chunk_tokens]
                _predict(sessions, chunk, figures, width, pool)
    lengths = [{"tokens": len(text), "chunks": count} for text, count in zip(tokens, counts, strict=True)]
    return {"texts": lengths, "models": [one.to_json() for one in figures], "peak_rss_bytes": peak_rss_bytes()}


def _bounded(parameters: Parameters, chunk_tokens: int) -> Parameters:
    """The parameters with a context of one chunk, and small batches until the vocabulary is known."""
    return replace(parameters, n_ctx=chunk_tokens, n_seq_max=1, n_batch=16, n_ubatch=16)


def _same_tokens(sessions: Sequence[Session], texts: Sequence[str]) -> list[list[int]]:
    first, *others = [[_tokens(session, text) for text in texts] for session in sessions]
    if any(other != first for other in others) or len({session.vocab_size for session in sessions}) > 1:
        raise ConflictingConfiguration(
            "the models have different vocabularies: their likelihoods cannot be compared",
            cure="compare quantizations or revisions of one model",
        )
    return first


def _tokens(session: Session, text: str) -> list[int]:
    """Tokenize as text, with the vocabulary's own beginning, and no special token inside."""
    data = text.encode()
    array = (llama.llama_token * (len(data) + 8))()
    count = llama.llama_tokenize(session.vocabulary, data, len(data), array, len(array), True, False)
    return list(array[: max(count, 0)])


def _chunk_counts(available: Sequence[int], most: int) -> list[int]:
    """How many chunks of each text are used: the same number of each as far as they go, `most` in all."""
    counts = [0] * len(available)
    while sum(counts) < most and counts != list(available):
        for index, chunks in enumerate(available):
            if counts[index] < chunks and sum(counts) < most:
                counts[index] += 1
    return counts


def _predict(
    sessions: Sequence[Session],
    chunk: Sequence[int],
    figures: Sequence[_Figures],
    width: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Predict the second half of a chunk with each model, `width` tokens at a time."""
    first = len(chunk) // 2
    for session in sessions:
        session.clear()
        begins_with_bos = llama.llama_vocab_get_add_bos(session.vocabulary) and session.bos >= 0
        session.decode([session.bos if begins_with_bos else chunk[0], *chunk[1:first]])
    for start in range(first, len(chunk) - 1, width):
        # The last token predicts nothing, and is not computed.
        part = chunk[start : min(start + width, len(chunk) - 1)]
        targets = np.array(chunk[start + 1 : start + 1 + len(part)])
        for block in _compare_in_blocks([session.decode_all(part) for session in sessions], targets, pool):
            for index, (one, found) in enumerate(zip(figures, block, strict=True)):
                one.nll.append(found.nll)
                if index:
                    one.kl.append(found.kl)
                    one.agrees.append(found.agrees)


def _compare_in_blocks(
    logits: Sequence[Floats], targets: np.ndarray[Any, Any], pool: ThreadPoolExecutor
) -> Iterator[list[Predictions]]:
    """Compare some rows at a time, in the threads of `pool`: numpy releases the GIL."""
    rows = max(1, _BLOCK_BYTES // logits[0][0].nbytes)
    blocks = [slice(begin, begin + rows) for begin in range(0, len(targets), rows)]
    return pool.map(lambda block: compare_logits([one[block] for one in logits], targets[block]), blocks)


def _encoded(parts: Sequence[np.ndarray[Any, Any]], kind: Any) -> str:
    whole = np.concatenate(parts) if parts else np.empty(0)
    return base64.b64encode(whole.astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()
