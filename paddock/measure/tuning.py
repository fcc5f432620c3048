"""Tune the engine's parameters: find those that are fastest for a model on this machine.

    candidate  the plan's parameters with some *knobs* (`KNOBS`) changed. The plan itself, without changes, always runs
    request    a prompt of `n_prompt` tokens, and `n_gen` generated tokens
    gain       geometric mean of a candidate's speedups over the plan for prompts and for answers
    round      one request of each candidate; all run once before any runs again

The method is successive halving: all candidates run a few rounds and the faster half continues with more rounds, until
two are left. After the first halving a candidate is added that combines all changes that were faster on their own. Of
each candidate the fastest request counts, since a disturbance of the machine only makes requests slower. Finally the
winner and the plan are timed again: the winner is used only if it is faster by more than noise, and neither its prompts
nor its answers are slower by more than noise. So the result is never worse than the plan.

The number of candidates and the length of a request follow from the time budget and the time of one small request. A
candidate that needs more memory than is free does not run, and one that crashes the engine is excluded. The KV cache
may become smaller, but never coarser than q8_0 nor larger than planned, since tuning must not cost answer quality.
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
from paddock.measure.knobs import MAX_TRIALS, checked_changes, checked_number
from paddock.measure.race import (
    MAX_UBATCH,
    NOISE,
    Candidate,
    Changes,
    Stopwatch,
    Times,
    candidates_for,
    compare_again,
    gain,
    speedups,
    successive_halving,
)
from paddock.model.hardware import Machine, this_machine
from paddock.planning.fitting import check_fits
from paddock.planning.placement import GPU_MARGIN_BYTES

SCHEMA = 1
BUDGET_S = 120.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a candidate: tokens per second of its fastest request, None with a `reason` if it did not run."""

    changes: Changes
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    rounds: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "turns": self.changes,
            "prefill_tok_per_s": self.prefill_tok_per_s,
            "decode_tok_per_s": self.decode_tok_per_s,
            "rounds": self.rounds,
            "why": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        prefill, decode = (
            None if value[name] is None else checked_number(value[name])
            for name in ("prefill_tok_per_s", "decode_tok_per_s")
        )
        return cls(
            changes=checked_changes(value["turns"]),
            prefill_tok_per_s=prefill,
            decode_tok_per_s=decode,
            rounds=int(checked_number(value["rounds"])),
            reason=str(value.get("why", ""))[:500],
        )


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of a tuning run.

    `changes` are the knobs that beat `plan`, empty if nothing did. `before` (the plan) and `after` (the winner) are
    from the final comparison. `load` is the system's load average at the start: processes that wanted a core. `seconds`
    is how long the run took.
    """

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
    changes: Changes
    before: Trial
    after: Trial
    trials: tuple[Trial, ...]

    def applied(self, plan: Parameters) -> Parameters:
        """Return `plan` with the changes applied.

        A knob whose value in `plan` differs from the tuned plan's was set on purpose, and is kept. A plan with another
        number of GPU layers is returned unchanged.
        """
        if plan.n_gpu_layers != self.plan.n_gpu_layers:
            return plan
        applicable = {
            name: value for name, value in self.changes.items() if getattr(plan, name) == getattr(self.plan, name)
        }
        return replace(plan, **applicable)

    @property
    def busy(self) -> bool:
        """Whether the machine was so busy that the result would probably differ on a quiet one."""
        return self.load > self.plan.n_threads / 2

    @property
    def gain(self) -> float:
        return round(gain(_seconds_per_token(self.after), _seconds_per_token(self.before)), 3)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (candidate, speed, rounds or reason) of each trial and of the result, for display."""
        trials = [
            (_changes_text(trial.changes), _speed_text(trial), trial.reason or f"{trial.rounds} rounds")
            for trial in self.trials
        ]
        result = (
            f"{_changes_text(self.changes)}: {self.gain:.2f} times as fast{' (not reliable)' if self.busy else ''}"
            if self.changes
            else "the plan's own parameters are kept"
        )
        return [*trials, ("tuned", result, _speed_text(self.after))]

    def to_json(self) -> dict[str, Any]:
        names = [field.name for field in fields(self) if field.name != "changes"]
        return {
            **{name: getattr(self, name) for name in names},
            "turns": self.changes,
            "plan": self.plan.to_json(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "gain": self.gain,
            "busy": self.busy,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tuning:
        """Read what `to_json` wrote. Raises ValueError, KeyError, TypeError or BadSetting for anything else."""
        return cls(
            schema=int(checked_number(value["schema"])),
            engine=str(value["engine"])[:200],
            build=str(value["build"])[:200],
            machine=str(value["machine"])[:200],
            tuned_at=str(value["tuned_at"])[:200],
            budget_s=checked_number(value["budget_s"]),
            seconds=checked_number(value["seconds"]),
            load=checked_number(value["load"]),
            n_prompt=int(checked_number(value["n_prompt"])),
            n_gen=int(checked_number(value["n_gen"])),
            plan=Parameters.from_json(value["plan"]),
            changes=checked_changes(value["turns"]),
            before=Trial.from_json(value["before"]),
            after=Trial.from_json(value["after"]),
            trials=tuple(Trial.from_json(trial) for trial in value["trials"][:MAX_TRIALS]),
        )


def tune(
    path: Path,
    plan: Parameters,
    *,
    budget_s: float = BUDGET_S,
    machine: Machine | None = None,
    threads: int | None = None,
) -> Tuning:
    """Tune a local GGUF (the first shard of a split one) for about `budget_s` seconds.

    `threads` is the most that a candidate may use, by default every hardware thread of this process.

    Raises DoesNotFit, and the errors of `process.run` for the plan's own parameters.
    """
    machine = machine or this_machine()
    began = time.monotonic()
    load = os.getloadavg()[0]
    with process.open_shards(path) as descriptors:
        needed = measure_descriptors(descriptors, plan)
        check_fits(path, plan, needed, machine)
        stopwatch = Stopwatch(descriptors, plan, began + budget_s)
        stopwatch.find_length(budget_s)
        logical = threads or len(os.sched_getaffinity(0))
        baseline = Candidate({})
        changed = candidates_for(plan, stopwatch.n_prompt, cores=machine.cores, logical=logical)
        candidates = [baseline, *changed]
        # An upper bound for every candidate: all weights repacked, and compute buffers of the largest micro-batch.
        extra_compute_bytes = needed.compute_bytes * 2 * max(MAX_UBATCH // plan.n_ubatch, 1)
        worst_bytes = needed.total_bytes + needed.weights_bytes + extra_compute_bytes
        all_fit = not plan.tensor_split and worst_bytes < min(_available_bytes(machine, needed))
        for candidate in candidates[1:]:
            if not all_fit and not _fits(path, descriptors, replace(plan, **candidate.changes), machine):
                candidate.reason = "does not fit"
        winner = successive_halving(stopwatch, candidates)
        if not winner.times:  # the budget was too small for any round
            stopwatch.run([winner], rounds=1)
        before, after = compare_again(stopwatch, baseline, winner)
    confirmed = gain(after.best, before.best) > 1 + NOISE and min(speedups(after.best, before.best)) > 1 - NOISE
    if winner is not baseline and not confirmed:
        winner.reason = "not confirmed by the final comparison"
    return Tuning(
        schema=SCHEMA,
        engine=engine_version(),
        build=engine_build(),
        machine=machine.identity,
        tuned_at=datetime.now(UTC).isoformat(timespec="seconds"),
        budget_s=budget_s,
        seconds=round(time.monotonic() - began, 1),
        load=round(load, 2),
        n_prompt=stopwatch.n_prompt,
        n_gen=stopwatch.n_gen,
        plan=plan,
        changes=winner.changes if confirmed else {},
        before=_trial(stopwatch, before),
        after=_trial(stopwatch, after if confirmed else before),
        trials=tuple(_trial(stopwatch, candidate) for candidate in candidates),
    )


def _available_bytes(machine: Machine, needed: Memory) -> list[int]:
    """Return the memory that each device could give to a model that it holds alone."""
    gpus = [gpu.vram_available_bytes - GPU_MARGIN_BYTES for gpu in machine.gpus] if needed.on_gpu else []
    return [machine.ram_available_bytes - MARGIN_BYTES, *gpus]


def _fits(path: Path, descriptors: Sequence[int], wanted: Parameters, machine: Machine) -> bool:
    try:
        check_fits(path, wanted, measure_descriptors(descriptors, wanted), machine)
    except DoesNotFit:
        return False
    except PaddockError:
        return True  # the engine refuses it: the race reports that
    return True


def _trial(stopwatch: Stopwatch, candidate: Candidate) -> Trial:
    prompt_s, answer_s = candidate.best
    return Trial(
        changes=candidate.changes,
        prefill_tok_per_s=round(stopwatch.n_prompt / prompt_s, 2) if candidate.times else None,
        decode_tok_per_s=round(stopwatch.n_gen / answer_s, 2) if candidate.times else None,
        rounds=len(candidate.times),
        reason=candidate.reason,
    )


def _seconds_per_token(trial: Trial) -> Times:
    if not trial.prefill_tok_per_s or not trial.decode_tok_per_s:
        return math.inf, math.inf
    return 1 / trial.prefill_tok_per_s, 1 / trial.decode_tok_per_s


def _changes_text(changes: Changes) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in changes.items()) or "the plan's own parameters"


def _speed_text(trial: Trial) -> str:
    if trial.prefill_tok_per_s is None or trial.decode_tok_per_s is None:
        return ""
    return f"{trial.prefill_tok_per_s:.1f} and {trial.decode_tok_per_s:.1f} tokens/s"
