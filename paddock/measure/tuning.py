"""The engine's settings that are fastest for a model on this machine, found by a race.

    runner    the plan's parameters with some *knobs* (`KNOBS`) turned. The plan's own, with none, always runs
    request   a prompt of `n_prompt` tokens, and `n_gen` tokens behind it
    gain      the geometric mean of how many times as fast as the plan's own a runner computes prompts and answers
    round     one request of each runner, all before one runs again

Successive halving: all run a few rounds, the better half runs more, until two are left. After the first rungs another
runner joins, with every turn that won on its own. Of each runner its fastest request counts, since what disturbs a
machine only slows it. At the end the winner meets the plan's own once more, from new: it is taken only if it is faster
by more than noise, and slower in nothing by more than that. So the outcome is never worse than the plan.

How many run, and how long a request is, follows from the time there is: a first, small request tells what one costs. A
runner that takes more memory than there is does not start, and one that crashes the engine is out. The KV cache may
become smaller, never coarser than q8_0 and never larger than planned: how well the model answers is not for sale.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paddock.engine import process
from paddock.engine.facts import engine_build, engine_version
from paddock.engine.oracle import MARGIN_BYTES, Memory, measure_descriptors
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit, PaddockError
from paddock.measure.race import NOISE, WIDEST, Runner, Times, Track, Turns, gain, halve, knob_runners, meet, ratios
from paddock.model.hardware import Machine, this_machine
from paddock.planning.fitting import check_fits
from paddock.planning.placement import GPU_MARGIN_BYTES

KNOBS = (
    "n_threads",
    "n_threads_batch",
    "n_batch",
    "n_ubatch",
    "flash_attn",
    "type_k",
    "type_v",
    "use_mmap",
    "use_extra_bufts",
)
SCHEMA = 1
BUDGET_S = 120.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What a runner did: tokens a second of its fastest request, None where it did not run, and then `why`."""

    turns: Turns
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    rounds: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The outcome: `turns` of the knobs that beat `plan`, none where nothing did. `before` and `after` are of the last
    meeting. `load` is what else the machine did at the beginning, in processes that wanted a core."""

    schema: int
    engine: str
    build: str
    machine: str
    tuned_at: str
    budget_s: float
    seconds: float
    load: float
    n_prompt: int
    n_gen: int
    plan: Parameters
    turns: Turns
    before: Trial
    after: Trial
    trials: tuple[Trial, ...]

    def applied(self, plan: Parameters) -> Parameters:
        """`plan` with the knobs turned that it has as the tuned plan had them: what somebody set otherwise stays. A
        plan with another share on the GPUs stays as it is."""
        if plan.n_gpu_layers != self.plan.n_gpu_layers:
            return plan
        alike = {name: value for name, value in self.turns.items() if getattr(plan, name) == getattr(self.plan, name)}
        return replace(plan, **alike)

    @property
    def busy(self) -> bool:
        """Whether the machine did so much else that another outcome is likely when it is quiet."""
        return self.load > self.plan.n_threads / 2

    @property
    def gain(self) -> float:
        return round(gain(_figures(self.after), _figures(self.before)), 3)

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, figure, rounds) as people read them."""
        trials = [(_shown(one.turns), _speed(one), one.why or f"{one.rounds} rounds") for one in self.trials]
        outcome = f"{_shown(self.turns)}: {self.gain:.2f} times as fast" if self.turns else "the plan's own stay"
        return [*trials, ("tuned", outcome, _speed(self.after))]

    def to_json(self) -> dict[str, Any]:
        value = {one.name: getattr(self, one.name) for one in fields(self)}
        trials = {name: _trial_json(value[name]) for name in ("before", "after")}
        shown = [_trial_json(one) for one in self.trials]
        return {**value, **trials, "plan": self.plan.to_json(), "trials": shown, "gain": self.gain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tuning:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        if set(value["turns"]) - set(KNOBS):
            raise ValueError("a turn of what is no knob")
        return cls(
            **{
                **{name: one for name, one in value.items() if name != "gain"},
                "plan": Parameters.from_json(value["plan"]),
                "before": Trial(**value["before"]),
                "after": Trial(**value["after"]),
                "trials": tuple(Trial(**one) for one in value["trials"]),
            }
        )


def tune(
    path: Path,
    plan: Parameters,
    *,
    budget_s: float = BUDGET_S,
    machine: Machine | None = None,
    threads: int | None = None,
) -> Tuning:
    """Race for about `budget_s` on a local GGUF (the first shard of a split one). `threads` is the most that a runner
    may use, by default every hardware thread of this process.

    Raises what `process.run` raises for the plan's own parameters, and DoesNotFit.
    """
    machine = machine or this_machine()
    began = time.monotonic()
    load = os.getloadavg()[0]
    with process.open_shards(path) as descriptors:
        needed = measure_descriptors(descriptors, plan)
        check_fits(path, plan, needed, machine)
        track = Track(descriptors, plan, began + budget_s)
        track.find_length(budget_s)
        logical = threads or len(os.sched_getaffinity(0))
        runners = [Runner({}), *knob_runners(plan, track.n_prompt, cores=machine.cores, logical=logical)]
        wider_bytes = needed.compute_bytes * 2 * max(WIDEST // plan.n_ubatch, 1)  # what no runner takes more than
        worst = needed.total_bytes + needed.weights_bytes + wider_bytes
        roomy = not plan.tensor_split and worst < min(_rooms(machine, needed))
        for runner in runners[1:]:
            if not roomy and not _fits(path, descriptors, replace(plan, **runner.turns), machine):
                runner.why = "does not fit"
        winner = halve(track, runners)
        if not winner.times:  # there was time for nothing
            track.run([winner], rounds=1)
        before, after = meet(track, runners[0], winner)
    held = gain(after.best, before.best) > 1 + NOISE and min(ratios(after.best, before.best)) > 1 - NOISE
    if winner is not runners[0] and not held:
        winner.why = "did not hold what it promised"
    return Tuning(
        schema=SCHEMA,
        engine=engine_version(),
        build=engine_build(),
        machine=machine.identity,
        tuned_at=datetime.now(UTC).isoformat(timespec="seconds"),
        budget_s=budget_s,
        seconds=round(time.monotonic() - began, 1),
        load=round(load, 2),
        n_prompt=track.n_prompt,
        n_gen=track.n_gen,
        plan=plan,
        turns=winner.turns if held else {},
        before=_trial(track, before),
        after=_trial(track, after if held else before),
        trials=tuple(_trial(track, runner) for runner in runners),
    )


def _rooms(machine: Machine, needed: Memory) -> list[int]:
    """The room of each device that a model on one of them alone would have."""
    gpus = [gpu.vram_available_bytes - GPU_MARGIN_BYTES for gpu in machine.gpus] if needed.on_gpu else []
    return [machine.ram_available_bytes - MARGIN_BYTES, *gpus]


def _fits(path: Path, descriptors: Sequence[int], wanted: Parameters, machine: Machine) -> bool:
    try:
        check_fits(path, wanted, measure_descriptors(descriptors, wanted), machine)
    except DoesNotFit:
        return False
    except PaddockError:
        return True  # the engine refuses it: that is told where it runs
    return True


def _trial(track: Track, runner: Runner) -> Trial:
    prompt_s, answer_s = runner.best
    return Trial(
        turns=runner.turns,
        prefill_tok_per_s=round(track.n_prompt / prompt_s, 2) if runner.times else None,
        decode_tok_per_s=round(track.n_gen / answer_s, 2) if runner.times else None,
        rounds=len(runner.times),
        why=runner.why,
    )


def _figures(trial: Trial) -> Times:
    if not trial.prefill_tok_per_s or not trial.decode_tok_per_s:
        return math.inf, math.inf
    return 1 / trial.prefill_tok_per_s, 1 / trial.decode_tok_per_s


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {one.name: getattr(trial, one.name) for one in fields(trial)}


def _shown(turns: Turns) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in turns.items()) or "the plan's own"


def _speed(trial: Trial) -> str:
    if trial.prefill_tok_per_s is None or trial.decode_tok_per_s is None:
        return ""
    return f"{trial.prefill_tok_per_s:.1f} and {trial.decode_tok_per_s:.1f} tokens/s"
