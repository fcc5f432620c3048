"""The benchmark's inner loops, in the engine's process.

What is measured, and why so, is said in `paddock.measure.benchmark`, and of `race` in `paddock.measure.tuning`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from paddock.engine.canary import canary
from paddock.engine.native import Log, Session, features, uses_gpus
from paddock.engine.parameters import Parameters
from paddock.errors import PaddockError
from paddock.model.gpu import energy_j, vram_used_bytes

_QUICK_S, _BLINK_S = 1.0, 0.05
_WARM_UP_TOKENS = 32


def measure_speed(
    paths: Sequence[str], parameters: Parameters, *, prompts: Sequence[int], generations: Sequence[int], limit_s: float
) -> dict[str, Any]:
    """The first length of each is always measured; another only if it is likely to end within `limit_s` of the
    start."""
    log = Log()
    held_before = vram_used_bytes()
    started = time.perf_counter()
    with Session(paths, parameters, log) as session:
        load_s = time.perf_counter() - started
        deadline = time.perf_counter() + limit_s
        spoken = canary(session)
        tokens = _tokens(session, max(*prompts, *generations))
        _prefill(session, tokens[: prompts[0]])
        session.decode(tokens[:1])
        prefill = _lengths(prompts, lambda length: _prefill(session, tokens[:length]), deadline)
        decode = _lengths(generations, lambda length: _decode(session, tokens[:length]), deadline)
        held = vram_used_bytes()
        return {
            "load_s": load_s,
            "canary": spoken,
            "prefill": prefill,
            "decode": decode,
            "weights_bytes": session.weights_bytes,
            "lines": log.memory,
            "peak_rss_bytes": _peak_rss_bytes(),
            "vram_bytes": None if held is None or held_before is None else max(held - held_before, 0),
            "features": features(),
            "uses_gpus": uses_gpus(),
        }


def race(
    paths: Sequence[str], runners: Sequence[Parameters], *, n_prompt: int, n_gen: int, rounds: int, within_s: float
) -> dict[str, Any]:
    """Requests of `n_prompt` tokens and an answer of `n_gen` behind them: (seconds of the prompt, of the answer) for
    each of `runners`, which share one load of the model, in each round.

    All run once before one runs again, so that what disturbs the machine for a while disturbs all of them. One whose
    context cannot be made, or computes nothing, has no times. After `within_s` nobody begins but who has not run yet.
    """
    log = Log()
    deadline = time.perf_counter() + within_s
    times: list[list[tuple[float, float]]] = [[] for _ in runners]
    out: set[int] = set()
    with Session(paths, runners[0], log) as session:
        tokens = _tokens(session, n_prompt + n_gen)
        for _ in range(rounds):
            for number, runner in enumerate(runners):
                if number in out or (times[number] and time.perf_counter() > deadline):
                    continue
                log.errors.clear()
                try:
                    session.renew(runner, log)
                    _request(session, tokens, min(n_prompt, _WARM_UP_TOKENS), 1)
                    times[number].append(_request(session, tokens, n_prompt, n_gen))
                except PaddockError:
                    out.add(number)
                    times[number].clear()
    return {"times": times}


def _request(session: Session, tokens: Sequence[int], n_prompt: int, n_gen: int) -> tuple[float, float]:
    session.clear()
    started = time.perf_counter()
    session.decode(tokens[:n_prompt])
    computed = time.perf_counter()
    for token in tokens[n_prompt : n_prompt + n_gen]:
        session.decode([token])
    return computed - started, time.perf_counter() - computed


def _lengths(
    lengths: Sequence[int], once: Callable[[int], tuple[float, float]], deadline: float
) -> list[dict[str, Any]]:
    """For each length its repetitions (`_repeat`), and the energy that they took; nothing where time ran out."""
    measured: list[dict[str, Any]] = []
    for length in lengths:
        if measured:
            each_s = measured[0]["s"][0] * length / lengths[0]
            if time.perf_counter() + 3 * each_s > deadline:
                measured.append({"s": [], "until_chosen_s": [], "energy_j": None})
                continue
        runs, energy = _repeat(partial(once, length))
        measured.append(
            {
                "s": [first for first, _ in runs],
                "until_chosen_s": [second for _, second in runs],
                "energy_j": energy,
            }
        )
    return measured


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


def _repeat(once: Callable[[], tuple[float, float]]) -> tuple[list[tuple[float, float]], float | None]:
    """Three repetitions, five where one takes less than a second, and twenty where it is over in a blink: then another
    one goes before, since a GPU prepares itself for each new length. And the joules that they took, where told."""
    before = energy_j()
    runs = [once()]
    if runs[0][0] < _BLINK_S:
        before = energy_j()
        runs = [once()]
    wanted = 20 if runs[0][0] < _BLINK_S else 5 if runs[0][0] < _QUICK_S else 3
    while len(runs) < wanted:
        runs.append(once())
    after = energy_j()
    return runs, None if before is None or after is None else after - before


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
