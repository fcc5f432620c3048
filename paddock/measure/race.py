"""Successive halving among candidate engine parameters: the candidates, the timing rounds, and the final comparison.

`paddock.measure.tuning` documents the method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.errors import EngineOutOfMemory, PaddockError

NOISE = 0.03
"""Relative difference of two timings that is not significant."""
MAX_UBATCH = 1024
_REQUEST_LENGTHS = ((256, 32), (128, 16), (64, 8), (32, 4))
_SHORTEST = _REQUEST_LENGTHS[-1]
_REQUESTS = 40  # the budget must allow this many requests, or they are made shorter
_FINAL_ROUNDS = 5
_MIN_TIMEOUT_S = 30.0

Changes = dict[str, Any]
"""Parameters that differ from the plan's, by name."""
Times = tuple[float, float]
"""Seconds of the prompt, and of the answer."""


@dataclass(slots=True)
class Candidate:
    """The plan's parameters with some changes. `reason` says reason it was excluded, and is empty while it was not."""

    changes: Changes
    times: list[Times] = field(default_factory=list)
    reason: str = ""

    @property
    def best(self) -> Times:
        """The fastest prompt and the fastest answer; infinite if it has not run."""
        if not self.times:
            return math.inf, math.inf
        return min(prompt for prompt, _ in self.times), min(answer for _, answer in self.times)


class Stopwatch:
    """Times candidates on one model, within a deadline.

    `n_prompt` and `n_gen` are the tokens of a request, `load_s` and `request_s` estimates of how long a load and a
    request take. `reserve_s` of the time before the deadline is kept free.
    """

    def __init__(self, descriptors: Sequence[int], plan: Parameters, deadline: float) -> None:
        self._descriptors, self.plan, self._deadline = descriptors, plan, deadline
        self.n_prompt, self.n_gen = _SHORTEST
        self.load_s = 0.0
        self.request_s = 0.0
        self.reserve_s = 0.0

    @property
    def left_s(self) -> float:
        return self._deadline - time.monotonic()

    def find_length(self, budget_s: float) -> None:
        """Choose the longest request of which the budget allows many, based on the time of a short one."""
        began = time.monotonic()
        baseline = Candidate({})
        context = self.plan.n_ctx // self.plan.n_seq_max
        self.n_prompt, self.n_gen = (
            min(_SHORTEST[0], max(context - _SHORTEST[1], 1)),
            min(_SHORTEST[1], max(context // 2, 1)),
        )
        self._time([baseline], rounds=2, within_s=budget_s)
        elapsed_s, each_s = time.monotonic() - began, sum(baseline.best)
        self.load_s, self.request_s = max(elapsed_s - 2 * each_s, 0.0), each_s
        for n_prompt, n_gen in _REQUEST_LENGTHS[:-1]:
            if n_prompt + n_gen > context:
                continue
            prompt_s, answer_s = baseline.best[0] * n_prompt / self.n_prompt, baseline.best[1] * n_gen / self.n_gen
            if _REQUESTS * (prompt_s + answer_s) <= budget_s:
                self.n_prompt, self.n_gen, self.request_s = n_prompt, n_gen, prompt_s + answer_s
                return

    def run(self, candidates: Sequence[Candidate], *, rounds: int) -> None:
        """Time each candidate that is not excluded, with one load of the model for those that can share it."""
        for group in _by_load(self.plan, [candidate for candidate in candidates if not candidate.reason]):
            try:
                self._time(group, rounds=rounds, within_s=self.left_s - self.reserve_s)
            except PaddockError as error:
                for candidate in group:
                    if len(group) > 1 and self.left_s > 0:  # find out which of them failed
                        self.run([candidate], rounds=rounds)
                    elif candidate.changes:
                        candidate.reason = f"{type(error).__name__}: {error.message[:120]}"
                    elif not candidate.times:
                        raise

    def _time(self, group: Sequence[Candidate], *, rounds: int, within_s: float) -> None:
        expected_s = self.load_s + rounds * len(group) * self.request_s
        answer = process.run(
            "race",
            {
                "paths": process.paths_of(self._descriptors),
                "candidates": [replace(self.plan, **candidate.changes).to_json() for candidate in group],
                "n_prompt": self.n_prompt,
                "n_gen": self.n_gen,
                "rounds": rounds,
                "within_s": max(within_s, 0.0),
            },
            timeout_s=max(_MIN_TIMEOUT_S, 8 * expected_s, within_s),
            descriptors=self._descriptors,
        ).result["times"]
        if not isinstance(answer, list) or len(answer) != len(group):
            return
        for candidate, times in zip(group, answer, strict=True):
            candidate.times += [(prompt_s, answer_s) for prompt_s, answer_s in times]
            if not times and not candidate.changes:
                raise EngineOutOfMemory(
                    "the engine cannot compute with the planned parameters",
                    cure="use a smaller context, or free memory",
                )
            if not times:
                candidate.reason = "the engine refuses it"


def candidates_for(plan: Parameters, n_prompt: int, *, cores: int, logical: int) -> Iterator[Candidate]:
    """Yield candidates that change one knob each, the most promising first.

    Changes that have no effect on a request of `n_prompt` tokens are left out. `cores` and `logical` are the physical
    cores and hardware threads.
    """
    threads_now = plan.n_threads
    batch_threads = plan.n_threads_batch or threads_now
    effective = {min(plan.n_ubatch, n_prompt)}
    sizes = [size for size in (256, 128, 64, MAX_UBATCH) if size <= min(plan.n_batch, plan.n_ctx)]
    wider = [{"n_ubatch": size} for size in sizes if size > plan.n_ubatch and _add(min(size, n_prompt), effective)]
    smaller = [{"n_ubatch": size} for size in sizes if size < plan.n_ubatch and _add(min(size, n_prompt), effective)]
    yield from map(Candidate, wider)
    for threads in dict.fromkeys((cores, logical, cores - 1, cores // 2)):
        if 1 <= threads <= logical and threads != threads_now:
            # The prompt's threads stay unchanged: they are a knob of their own.
            yield Candidate({"n_threads": threads, "n_threads_batch": batch_threads})
    for attention in ("on", "off"):
        if plan.flash_attn != attention:
            yield Candidate({"flash_attn": attention})
    yield Candidate({"use_extra_bufts": not plan.use_extra_bufts})
    for threads in dict.fromkeys((logical, cores)):
        if threads != batch_threads:
            yield Candidate({"n_threads_batch": threads})
    yield from map(Candidate, smaller)
    if plan.type_k == plan.type_v and plan.type_k in {"f32", "f16", "bf16"} and plan.flash_attn != "off":
        yield Candidate(
            {"type_k": "q8_0", "type_v": "q8_0", "flash_attn": "on"}
        )  # quantized values need flash attention
    yield Candidate({"use_mmap": not plan.use_mmap})
    effective = {min(plan.n_batch, n_prompt)}
    for size in (256, 128):
        if _add(min(size, n_prompt), effective):
            yield Candidate({"n_batch": size, "n_ubatch": min(size, plan.n_ubatch)})


def _add(size: int, seen: set[int]) -> bool:
    """Add `size` to `seen`, and return whether it is new."""
    is_new = size not in seen
    seen.add(size)
    return is_new


def successive_halving(stopwatch: Stopwatch, candidates: list[Candidate]) -> Candidate:
    """Return the winner; `candidates[0]` is the plan itself. A combined candidate may be appended to `candidates`."""
    baseline = candidates[0]
    running = [candidate for candidate in candidates if not candidate.reason]
    share_s = stopwatch.left_s / (math.ceil(math.log2(max(len(running), 2))) + 1)
    affordable = max(int(share_s / max(stopwatch.request_s, 1e-6)), 1)
    for excluded in running[affordable:]:
        excluded.reason = "no time"
    running = running[:affordable]
    rung = 0
    stopwatch.reserve_s = share_s  # for the final comparison
    while len(running) > 1 and stopwatch.left_s > share_s:
        rounds = max(1, int(share_s / (len(running) * max(stopwatch.request_s, 1e-6))))
        stopwatch.run(running, rounds=min(rounds, 2 + 2 * rung))
        running = sorted(
            (candidate for candidate in running if not candidate.reason),
            key=lambda candidate: -gain(candidate.best, baseline.best),
        )
        if len(running) <= 2:
            break
        kept = running[: len(running) // 2]
        if rung == 0 and (combined := _combine(running, baseline)):
            candidates.append(combined)
            kept.append(combined)
        running = kept if baseline in kept else [*kept, baseline]
        rung += 1
    for candidate in candidates[1:]:
        candidate.reason = candidate.reason or ("" if candidate.times else "no time")
    timed = (candidate for candidate in running if candidate.times)
    return max(timed, key=lambda candidate: gain(candidate.best, baseline.best), default=baseline)


def _combine(ranked: Sequence[Candidate], baseline: Candidate) -> Candidate | None:
    """Combine all changes that were faster on their own, the better one of two that change the same knob.

    None if the combination is a candidate already.
    """
    changes: Changes = {}
    for candidate in ranked:
        if gain(candidate.best, baseline.best) > 1 + NOISE / 2 and not set(candidate.changes) & set(changes):
            changes |= candidate.changes
    return Candidate(changes) if all(changes != candidate.changes for candidate in ranked) else None


def compare_again(stopwatch: Stopwatch, baseline: Candidate, winner: Candidate) -> tuple[Candidate, Candidate]:
    """Time the plan and the winner again, alternating, also if they cannot share a load of the model.

    Returns (plan, winner) with only the new times, or the plan twice if there is nothing to compare.
    """
    if winner is baseline or not winner.times:
        return baseline, baseline
    before, after = Candidate(baseline.changes), Candidate(winner.changes)
    stopwatch.reserve_s = 0.0
    if len(list(_by_load(stopwatch.plan, [before, after]))) == 1:
        stopwatch.run([before, after], rounds=_FINAL_ROUNDS)
    else:
        for _ in range(2):
            stopwatch.run([before], rounds=2)
            stopwatch.run([after], rounds=2)
    return (before, after) if before.times and after.times else (baseline, baseline)


def _by_load(plan: Parameters, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Group the candidates that can share a load of the model."""
    groups: dict[tuple[bool, bool], list[Candidate]] = {}
    for candidate in candidates:
        wanted = replace(plan, **candidate.changes)
        groups.setdefault((wanted.use_mmap, wanted.use_extra_bufts), []).append(candidate)
    yield from groups.values()


def speedups(times: Times, reference: Times) -> tuple[float, float]:
    """Return how many times as fast as `reference` the prompt and the answer are."""
    return reference[0] / times[0], reference[1] / times[1]


def gain(times: Times, reference: Times) -> float:
    """Return the geometric mean of the speedups; 0 if either has not run."""
    if not all(map(math.isfinite, (*times, *reference))):
        return 0.0
    prompt, answer = speedups(times, reference)
    return math.sqrt(prompt * answer)
