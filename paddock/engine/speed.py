"""The benchmark's inner loop, in the engine's process.

What is measured, and why so, is said in `paddock.measure.benchmark`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddock.engine.canary import canary
from paddock.engine.native import Log, Session
from paddock.engine.parameters import Parameters

_QUICK_S = 1.0


def measure_speed(paths: Sequence[str], parameters: Parameters, *, n_prompt: int, n_gen: int) -> dict[str, Any]:
    log = Log()
    started = time.perf_counter()
    with Session(paths, parameters, log) as session:
        load_s = time.perf_counter() - started
        spoken = canary(session)
        tokens = _tokens(session, max(n_prompt, n_gen))
        _prefill(session, tokens[:n_prompt])
        session.decode(tokens[:1])
        prefill = _repeat(lambda: _prefill(session, tokens[:n_prompt]))
        decode = _repeat(lambda: _decode(session, tokens[:n_gen]))
        return {
            "load_s": load_s,
            "canary": spoken,
            "prefill_s": [first for first, _ in prefill],
            "first_token_s": [second for _, second in prefill],
            "decode_s": [first for first, _ in decode],
            "weights_bytes": session.weights_bytes,
            "lines": log.memory,
            "peak_rss_bytes": _peak_rss_bytes(),
        }


def _prefill(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    """Seconds until the prompt is computed, and until the first token after it is chosen."""
    session.clear()
    started = time.perf_counter()
    session.decode(tokens)
    computed = time.perf_counter()
    session.logits().argmax()
    return computed - started, time.perf_counter() - started


def _decode(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    """Seconds for the tokens one by one, in an empty context; given twice, to be of `_prefill`'s form."""
    session.clear()
    started = time.perf_counter()
    for token in tokens:
        session.decode([token])
    elapsed = time.perf_counter() - started
    return elapsed, elapsed


def _repeat(once: Any) -> list[tuple[float, float]]:
    """Three repetitions, or five where one takes less than a second."""
    runs = [once()]
    while len(runs) < (5 if runs[0][0] < _QUICK_S else 3):
        runs.append(once())
    return runs


def _tokens(session: Session, number: int) -> list[int]:
    """The beginning-of-text token where there is one, then random ones, the same in every run."""
    choose = random.Random(0)  # noqa: S311 - not for secrets
    tokens = [choose.randrange(session.vocab_size) for _ in range(number)]
    if session.bos >= 0:
        tokens[0] = session.bos
    return tokens


def _peak_rss_bytes() -> int:
    """The most memory that this process has had resident.

    Not `getrusage`: its figure begins with that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
