"""Time two models alternately, in the engine's child process.

What is measured, and why, is documented in `paddock.measure.paired_speed`. With one model, it is only loaded and
checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from paddock.engine.bindings import Session
from paddock.engine.canary import canary, embedding_canary
from paddock.engine.disturbance import DisturbanceWatch
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters
from paddock.engine.timing import random_tokens, time_decode, time_embedding, time_prefill

_WARM_UP_TOKENS = 32
_SHORT_S = 0.1
_REPETITIONS = 5
"""Of what takes less than `_SHORT_S`, or follows a load of the model. Their median counts: a single short one may be
delayed by a timer or an interrupt."""


@dataclass(slots=True)
class _Model:
    paths: Sequence[str]
    parameters: Parameters
    memory: dict[str, Any] = field(default_factory=dict)

    def load(self, stack: ExitStack, *, embeds: bool) -> Session:
        """Load the model; the first time, check its output and keep the memory that the engine reports."""
        log = Log()
        session = stack.enter_context(Session(self.paths, self.parameters, log, embeds=embeds))
        if not self.memory:
            if embeds:
                embedding_canary(session)
            else:
                canary(session)
            lines = {kind: list(entries) for kind, entries in log.memory.items()}  # later ones may be another model's
            self.memory = {"weights_bytes": session.weights_bytes, "lines": lines}
        return session


def time_pairs(
    models: Sequence[tuple[Sequence[str], Parameters]],
    *,
    embeds: bool,
    together: bool,
    n_prompt: int,
    n_gen: int,
    least: int,
    rounds: int,
    within_s: float,
) -> dict[str, Any]:
    """Load `models`, (paths of the shards, parameters), and run `rounds` rounds, in each of which every model is timed
    once; every second one in reverse order. After the first `least`, a round starts only if it will probably end within
    `within_s` seconds. `together`: all models are loaded at once; else each for each of its turns.

    Returns `{"rounds": [{"prefill_s", "first_token_s", "decode_s", "disturbance"}, ...], "memory": [...]}`, figures and
    memory in the order of `models`; `decode_s` is empty for models that embed. Raises ModelRejected where a model's
    output is not finite.
    """
    loaded = [_Model(paths, parameters) for paths, parameters in models]
    began = time.perf_counter()
    measured: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sessions = [model.load(stack, embeds=embeds) for model in loaded] if together else []
        for number in range(rounds):
            elapsed_s = time.perf_counter() - began
            if number >= max(least, 1) and elapsed_s * (number + 1) / number > within_s:
                break
            watch = DisturbanceWatch()
            figures: dict[int, dict[str, float]] = {}
            order = range(len(loaded)) if number % 2 == 0 else reversed(range(len(loaded)))
            for index in order:
                with ExitStack() as turn:
                    session = sessions[index] if together else loaded[index].load(turn, embeds=embeds)
                    figures[index] = _time(session, embeds=embeds, n_prompt=n_prompt, n_gen=n_gen, again=not together)
            measured.append(
                {
                    name: [figures[index][name] for index in range(len(loaded)) if name in figures[index]]
                    for name in ("prefill_s", "first_token_s", "decode_s")
                }
                | {"disturbance": watch.end().to_json()}
            )
    return {"rounds": measured, "memory": [model.memory for model in loaded]}


def _time(session: Session, *, embeds: bool, n_prompt: int, n_gen: int, again: bool) -> dict[str, float]:
    """The seconds of each figure. `again`: also what takes long is repeated."""
    tokens = random_tokens(session, max(n_prompt, n_gen))
    if embeds:
        time_embedding(session, tokens[:n_prompt])
        prefill, first = _median(lambda: time_embedding(session, tokens[:n_prompt]), again=again)
        return {"prefill_s": prefill, "first_token_s": first}
    time_prefill(session, tokens[: min(n_prompt, _WARM_UP_TOKENS)])
    prefill, first = _median(lambda: time_prefill(session, tokens[:n_prompt]), again=again)
    decode, _ = _median(lambda: time_decode(session, tokens[:n_gen]), again=again)
    return {"prefill_s": prefill, "first_token_s": first, "decode_s": decode}


def _median(measure_once: Callable[[], tuple[float, float]], *, again: bool) -> tuple[float, float]:
    runs = [measure_once()]
    while len(runs) < _REPETITIONS and (again or runs[0][0] < _SHORT_S):
        runs.append(measure_once())
    return median(first for first, _ in runs), median(second for _, second in runs)
