"""Compare the speed of a candidate with that of the promoted model, measured alternately on one machine.

    round   prefill and decode of both, one directly after the other, each with the parameters that it serves with. The
            order changes from round to round (AB, BA, ...), so that a machine that slows down favours neither
    ratio   geometric mean over the rounds of the candidate's figure divided by the promoted model's
    95 % interval
            Student's t on the logarithms of the rounds' ratios. There are few rounds: of three, resampling knows ten
            different samples and finds an interval that is far too narrow, and a sign test decides nothing below six

A round in which the machine was disturbed (`paddock.measure.reliability`) does not count. With fewer than three
reliable rounds there is no ratio. Rounds are repeated until the intervals decide, within a budget. Repeated looks at an
interval find a difference too often if there is none: that matters only for a candidate whose speed is close to the
bound.

Both models are loaded at once where the memory allows it; else each is loaded again for each of its turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, Memory, memory_from_log
from paddock.engine.parameters import Parameters
from paddock.gguf.directory import local_kind
from paddock.measure.quality import Estimate
from paddock.measure.reliability import doubts
from paddock.model.hardware import Machine, this_machine

MIN_ROUNDS = 3
N_PROMPT, N_GEN = 256, 64
"""At most half and a quarter of the context."""
_ROUNDS_AT_ONCE = 5
"""Rounds of one engine process, after which it is seen whether they decide."""
_PROCESS_S = 120.0
"""Time limit of the rounds of one engine process beyond the first MIN_ROUNDS."""
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; with more, the last one is a little large."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of the (candidate, promoted model); `decode_s` is None for models that embed. `doubts` say why the round
    does not count."""

    prefill_s: tuple[float, float]
    first_token_s: tuple[float, float]
    decode_s: tuple[float, float] | None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ratio:
    """Medians of the candidate's and the promoted model's figures, and the ratio of the two."""

    candidate: float
    promoted: float
    ratio: Estimate


@dataclass(frozen=True, slots=True)
class PairedSpeed:
    """The result of `rounds` rounds, of which `disturbed` do not count, for the reasons in `doubts`.

    `prefill` and `decode` are in tokens per second, `time_to_first_token` in seconds; None without enough rounds, and
    `decode` for models that embed (`decodes` is false).
    """

    rounds: int
    disturbed: int
    doubts: tuple[str, ...]
    prefill: Ratio | None
    time_to_first_token: Ratio | None
    decode: Ratio | None
    decodes: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """A local GGUF, the first shard of a split one, with the parameters that it serves with, and the memory that the
    engine predicts for them, which is free."""

    path: Path
    parameters: Parameters
    planned: Memory


def load_alone(side: Side, *, timeout_s: float = 1800.0) -> Memory:
    """Load a model, check that its output is finite, and return the memory that the engine took. Raises ModelRejected,
    and the errors of `process.run`."""
    return _run([side], rounds=0, within_s=0, timeout_s=timeout_s)[1]


def measure_pair(
    candidate: Side,
    promoted: Side,
    *,
    is_decided: Callable[[PairedSpeed], bool] = lambda _: False,
    budget_s: float = 60.0,
    timeout_s: float = 1800.0,
) -> PairedSpeed:
    """Measure two models of one kind alternately.

    After the first rounds, more are measured until `is_decided`, as long as they probably end within `budget_s`
    seconds. Raises ModelRejected for output that is not finite, and the errors of `process.run`.
    """
    context = min(candidate.parameters.n_ctx, promoted.parameters.n_ctx)
    n_prompt, n_gen = max(1, min(N_PROMPT, context // 2)), max(1, min(N_GEN, context // 4))
    began = time.monotonic()
    within_s = min(_PROCESS_S, timeout_s / 2)
    rounds: list[Round] = []
    runs = 0
    while True:
        more, _ = _run(
            [candidate, promoted],
            n_prompt=n_prompt,
            n_gen=n_gen,
            least=1 if rounds else MIN_ROUNDS,
            rounds=_ROUNDS_AT_ONCE,
            within_s=within_s,
            timeout_s=timeout_s,
        )
        runs += 1
        rounds += more
        speed = summarise(rounds, n_prompt=n_prompt, n_gen=n_gen)
        elapsed_s = time.monotonic() - began
        if is_decided(speed) or elapsed_s * (runs + 1) / runs > budget_s:
            return speed


def _run(
    sides: Sequence[Side],
    *,
    rounds: int,
    within_s: float,
    timeout_s: float,
    n_prompt: int = 1,
    n_gen: int = 1,
    least: int = 0,
) -> tuple[list[Round], Memory]:
    """Load the sides in one engine process, and measure some rounds. Returns them with the memory of the first side."""
    kind = local_kind(sides[0].path)
    if kind.embeds:
        n_prompt = min(n_prompt, *(side.parameters.n_ubatch for side in sides))
    with ExitStack() as stack:
        opened = [stack.enter_context(process.open_shards(side.path)) for side in sides]
        answer: Mapping[str, Any] = process.run(
            "pair",
            {
                "models": [
                    {"paths": process.paths_of(descriptors), "parameters": side.parameters.to_json()}
                    for descriptors, side in zip(opened, sides, strict=True)
                ],
                "embeds": kind.embeds,
                "together": len(sides) == 1 or _fit_together([side.planned for side in sides], this_machine()),
                "n_prompt": n_prompt,
                "n_gen": n_gen,
                "least": least,
                "rounds": rounds,
                "within_s": within_s,
            },
            timeout_s=timeout_s,
            descriptors=[descriptor for descriptors in opened for descriptor in descriptors],
        ).result
    first = answer["memory"][0]
    memory = memory_from_log(first["weights_bytes"], first["lines"])
    return [_round(one, on_gpu=memory.on_gpu) for one in answer["rounds"]], memory


def _fit_together(needs: Sequence[Memory], machine: Machine) -> bool:
    needed = sum(memory.total_bytes for memory in needs) + MARGIN_BYTES
    if any(memory.on_gpu for memory in needs):
        return needed <= min((gpu.vram_available_bytes for gpu in machine.gpus), default=0)
    return needed <= machine.ram_available_bytes


def _round(value: Mapping[str, Any], *, on_gpu: bool) -> Round:
    disturbed = doubts(
        {},
        value["disturbance"],
        on_gpu=on_gpu,
        weights_bytes=0,
        read_bytes_per_s=None,
        bandwidth_bytes_per_s=None,
    )
    return Round(
        _pair(value["prefill_s"]),
        _pair(value["first_token_s"]),
        _pair(value["decode_s"]) if value["decode_s"] else None,
        disturbed,
    )


def _pair(values: Sequence[float]) -> tuple[float, float]:
    candidate, promoted = values
    return candidate, promoted


def summarise(rounds: Sequence[Round], *, n_prompt: int, n_gen: int) -> PairedSpeed:
    """Sum up the rounds of prompts of `n_prompt` tokens and answers of `n_gen` tokens."""
    counted = [one for one in rounds if not one.doubts]
    decode = [one.decode_s for one in counted if one.decode_s]
    return PairedSpeed(
        rounds=len(rounds),
        disturbed=len(rounds) - len(counted),
        doubts=tuple(dict.fromkeys(doubt for one in rounds for doubt in one.doubts)),
        prefill=_ratio([_speeds(n_prompt, one.prefill_s) for one in counted]),
        time_to_first_token=_ratio([one.first_token_s for one in counted]),
        decode=_ratio([_speeds(n_gen, seconds) for seconds in decode]),
        decodes=any(one.decode_s for one in rounds),
    )


def _speeds(tokens: int, seconds: tuple[float, float]) -> tuple[float, float]:
    return tokens / seconds[0], tokens / seconds[1]


def _ratio(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """The ratio of pairs of (candidate, promoted model) with its interval; None for fewer than MIN_ROUNDS."""
    if len(pairs) < MIN_ROUNDS:
        return None
    logs = [log(candidate / promoted) for candidate, promoted in pairs]
    mean = fmean(logs)
    half = t_975(len(logs) - 1) * stdev(logs) / sqrt(len(logs))
    return Ratio(
        median(candidate for candidate, _ in pairs),
        median(promoted for _, promoted in pairs),
        Estimate(exp(mean), exp(mean - half), exp(mean + half)),
    )


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with that many degrees of freedom, at least 1."""
    return _T_975[min(degrees, len(_T_975)) - 1]
