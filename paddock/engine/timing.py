"""Timing loops of the benchmark and of the tuning race, in the engine's child process.

What is measured, and why, is documented in `paddock.measure.benchmark` and `paddock.measure.tuning`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from paddock.engine.bindings import Session, features, uses_gpus
from paddock.engine.canary import canary, embedding_canary
from paddock.engine.disturbance import Disturbance, DisturbanceWatch
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.engine.process_memory import peak_rss_bytes
from paddock.errors import PaddockError
from paddock.model.gpu import energy_j, vram_used_bytes

_SHORT_S, _VERY_SHORT_S = 1.0, 0.05
_WARM_UP_TOKENS = 32


def measure_speed(
    paths: Sequence[str], parameters: Parameters, *, prompts: Sequence[int], generations: Sequence[int], limit_s: float
) -> dict[str, Any]:
    """Load a model, run the canary, and time prefill of `prompts` tokens and decode of `generations` tokens.

    The first length of each is always measured; a further one only if it will probably end within `limit_s` seconds of
    the load. Returns the raw figures as JSON: seconds of each repetition, joules, and memory.
    """
    log = Log()
    vram_before = vram_used_bytes()
    started = time.perf_counter()
    with Session(paths, parameters, log) as session:
        load_s = time.perf_counter() - started
        deadline = time.perf_counter() + limit_s
        canary_tokens = canary(session)
        tokens = random_tokens(session, max(*prompts, *generations))
        time_prefill(session, tokens[: prompts[0]])
        session.decode(tokens[:1])
        watch = DisturbanceWatch()
        prefill = _lengths(prompts, lambda length: time_prefill(session, tokens[:length]), deadline)
        decode = _lengths(generations, lambda length: time_decode(session, tokens[:length]), deadline)
        measured = _measured(session, log, load_s, watch.end(), prefill=prefill, vram_before=vram_before)
        return {**measured, "canary": canary_tokens, "decode": decode}


def _measured(
    session: Session,
    log: Log,
    load_s: float,
    disturbance: Disturbance,
    *,
    prefill: list[dict[str, Any]],
    vram_before: int | None,
) -> dict[str, Any]:
    vram = vram_used_bytes()
    return {
        "load_s": load_s,
        "canary": [],
        "prefill": prefill,
        "decode": [],
        "weights_bytes": session.weights_bytes,
        "lines": log.memory,
        "peak_rss_bytes": peak_rss_bytes(),
        "vram_bytes": None if vram is None or vram_before is None else max(vram - vram_before, 0),
        "features": features(),
        "uses_gpus": uses_gpus(),
        "disturbance": disturbance.to_json(),
    }


def measure_embedding(
    paths: Sequence[str], parameters: Parameters, *, prompts: Sequence[int], limit_s: float
) -> dict[str, Any]:
    """Variant of `measure_speed` for a model that embeds: no canary tokens, and nothing is decoded."""
    log = Log()
    vram_before = vram_used_bytes()
    started = time.perf_counter()
    with Session(paths, parameters, log, embeds=True) as session:
        load_s = time.perf_counter() - started
        deadline = time.perf_counter() + limit_s
        embedding_canary(session)
        tokens = random_tokens(session, max(prompts))
        session.embed(tokens[: prompts[0]])
        watch = DisturbanceWatch()
        prefill = _lengths(prompts, lambda length: time_embedding(session, tokens[:length]), deadline)
        return _measured(session, log, load_s, watch.end(), prefill=prefill, vram_before=vram_before)


def time_requests(
    paths: Sequence[str], candidates: Sequence[Parameters], *, n_prompt: int, n_gen: int, rounds: int, within_s: float
) -> dict[str, Any]:
    """Time requests of `n_prompt` prompt tokens and `n_gen` generated tokens with each of `candidates`.

    Returns `{"times": [[(prompt seconds, answer seconds), ...], ...]}`, one list for each candidate with at most one
    pair for each round. The candidates share one load of the model. Each runs once before any runs again, so that a
    disturbance of the machine affects all of them. A candidate whose context cannot be created, or that fails to
    compute, has no times. After `within_s` seconds only candidates that have not run yet are started.
    """
    log = Log()
    deadline = time.perf_counter() + within_s
    times: list[list[tuple[float, float]]] = [[] for _ in candidates]
    failed: set[int] = set()
    with Session(paths, candidates[0], log) as session:
        tokens = random_tokens(session, n_prompt + n_gen)
        for _ in range(rounds):
            for number, candidate in enumerate(candidates):
                if number in failed or (times[number] and time.perf_counter() > deadline):
                    continue
                log.errors.clear()
                try:
                    session.replace_context(candidate, log)
                    _request(session, tokens, min(n_prompt, _WARM_UP_TOKENS), 1)
                    times[number].append(_request(session, tokens, n_prompt, n_gen))
                except PaddockError:
                    failed.add(number)
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
    lengths: Sequence[int], measure_once: Callable[[int], tuple[float, float]], deadline: float
) -> list[dict[str, Any]]:
    """Repeat the measurement of each length (`_repeat`) and its energy; empty lists for a length without time left."""
    measured: list[dict[str, Any]] = []
    for length in lengths:
        if measured:
            each_s = measured[0]["s"][0] * length / lengths[0]
            if time.perf_counter() + 3 * each_s > deadline:
                measured.append({"s": [], "until_chosen_s": [], "energy_j": None})
                continue
        runs, energy = _repeat(partial(measure_once, length))
        measured.append(
            {
                "s": [first for first, _ in runs],
                "until_chosen_s": [second for _, second in runs],
                "energy_j": energy,
            }
        )
    return measured


def time_prefill(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the seconds until the prompt is computed, and until the first token after it is chosen."""
    session.clear()
    started = time.perf_counter()
    session.decode(tokens)
    computed = time.perf_counter()
    session.logits().argmax()
    return computed - started, time.perf_counter() - started


def time_embedding(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the seconds until the embedding is there, twice to match `_prefill`."""
    started = time.perf_counter()
    session.embed(tokens)
    elapsed = time.perf_counter() - started
    return elapsed, elapsed


def time_decode(session: Session, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the seconds of decoding the tokens one by one from an empty context, twice to match `_prefill`."""
    session.clear()
    started = time.perf_counter()
    for token in tokens:
        session.decode([token])
    elapsed = time.perf_counter() - started
    return elapsed, elapsed


def _repeat(measure_once: Callable[[], tuple[float, float]]) -> tuple[list[tuple[float, float]], float | None]:
    """Repeat a measurement; returns the repetitions and the joules that they took, None where no GPU counts energy.

    Three repetitions; five if one takes less than a second; twenty if one takes less than a twentieth of a second. The
    twenty have a warm-up of their own, since a GPU prepares itself for each new length.
    """
    before = energy_j()
    runs = [measure_once()]
    if runs[0][0] < _VERY_SHORT_S:
        before = energy_j()
        runs = [measure_once()]
    wanted = 20 if runs[0][0] < _VERY_SHORT_S else 5 if runs[0][0] < _SHORT_S else 3
    while len(runs) < wanted:
        runs.append(measure_once())
    after = energy_j()
    return runs, None if before is None or after is None else after - before


def random_tokens(session: Session, number: int) -> list[int]:
    """Return the beginning-of-text token, if there is one, and random tokens, the same in every run."""
    generator = random.Random(0)  # noqa: S311 - not for secrets
    tokens = [generator.randrange(session.vocab_size) for _ in range(number)]
    if session.bos >= 0:
        tokens[0] = session.bos
    return tokens
