"""The race between settings of the engine: runners, rounds, and successive halving. Why it is run so is said in
`paddock.measure.tuning`."""

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
WIDEST = 1024  # n_ubatch
_LENGTHS = ((256, 32), (128, 16), (64, 8), (32, 4))
_PROBE = _LENGTHS[-1]
_REQUESTS = 40  # what the budget must have room for, or requests become shorter
_FINAL_ROUNDS = 5
_LEAST_TIMEOUT_S = 30.0

Turns = dict[str, Any]
Times = tuple[float, float]


@dataclass(slots=True)
class Runner:
    turns: Turns
    times: list[Times] = field(default_factory=list)
    why: str = ""

    @property
    def best(self) -> Times:
        """The fastest prompt and the fastest answer, in seconds; without end where there is none."""
        if not self.times:
            return math.inf, math.inf
        return min(prompt for prompt, _ in self.times), min(answer for _, answer in self.times)


class Track:
    """Where runners run: a model, the length of a request, and the time there is."""

    def __init__(self, descriptors: Sequence[int], plan: Parameters, deadline: float) -> None:
        self._descriptors, self.plan, self._deadline = descriptors, plan, deadline
        self.n_prompt, self.n_gen = _PROBE
        self.load_s = 0.0
        self.request_s = 0.0
        self.reserve_s = 0.0

    @property
    def left_s(self) -> float:
        return self._deadline - time.monotonic()

    def find_length(self, budget_s: float) -> None:
        """Choose the longest request of which the budget has room for many, by what a short one takes."""
        began = time.monotonic()
        probe = Runner({})
        context = self.plan.n_ctx // self.plan.n_seq_max
        self.n_prompt, self.n_gen = min(_PROBE[0], max(context - _PROBE[1], 1)), min(_PROBE[1], max(context // 2, 1))
        self._run([probe], rounds=2, within_s=budget_s)
        took_s, each_s = time.monotonic() - began, sum(probe.best)
        self.load_s, self.request_s = max(took_s - 2 * each_s, 0.0), each_s
        for n_prompt, n_gen in _LENGTHS[:-1]:
            if n_prompt + n_gen > context:
                continue
            prompt_s, answer_s = probe.best[0] * n_prompt / self.n_prompt, probe.best[1] * n_gen / self.n_gen
            if _REQUESTS * (prompt_s + answer_s) <= budget_s:
                self.n_prompt, self.n_gen, self.request_s = n_prompt, n_gen, prompt_s + answer_s
                return

    def run(self, runners: Sequence[Runner], *, rounds: int) -> None:
        """Let each run that is not out, those together that share a load of the model."""
        for group in _by_load(self.plan, [runner for runner in runners if not runner.why]):
            try:
                self._run(group, rounds=rounds, within_s=self.left_s - self.reserve_s)
            except PaddockError as error:
                for runner in group:
                    if len(group) > 1 and self.left_s > 0:  # one of them did it: which?
                        self.run([runner], rounds=rounds)
                    elif runner.turns:
                        runner.why = f"{type(error).__name__}: {error.message[:120]}"
                    elif not runner.times:
                        raise

    def _run(self, group: Sequence[Runner], *, rounds: int, within_s: float) -> None:
        expected_s = self.load_s + rounds * len(group) * self.request_s
        said = process.run(
            "race",
            {
                "paths": process.paths_of(self._descriptors),
                "candidates": [replace(self.plan, **runner.turns).to_json() for runner in group],
                "n_prompt": self.n_prompt,
                "n_gen": self.n_gen,
                "rounds": rounds,
                "within_s": max(within_s, 0.0),
            },
            timeout_s=max(_LEAST_TIMEOUT_S, 8 * expected_s, within_s),
            descriptors=self._descriptors,
        ).result["times"]
        if not isinstance(said, list) or len(said) != len(group):
            return
        for runner, times in zip(group, said, strict=True):
            runner.times += [(prompt, answer) for prompt, answer in times]
            if not times and not runner.turns:
                raise EngineOutOfMemory(
                    "the engine cannot compute with the parameters as they are planned",
                    cure="use a smaller context, or free memory",
                )
            if not times:
                runner.why = "the engine refuses it"


def knob_runners(plan: Parameters, n_prompt: int, *, cores: int, logical: int) -> Iterator[Runner]:
    """Every knob turned alone, what promises most first. What a request of `n_prompt` could not feel is left out."""
    now = plan.n_threads
    batches = plan.n_threads_batch or now
    felt = {min(plan.n_ubatch, n_prompt)}
    sizes = [size for size in (256, 128, 64, WIDEST) if size <= min(plan.n_batch, plan.n_ctx)]
    wider = [{"n_ubatch": size} for size in sizes if size > plan.n_ubatch and _new(min(size, n_prompt), felt)]
    smaller = [{"n_ubatch": size} for size in sizes if size < plan.n_ubatch and _new(min(size, n_prompt), felt)]
    yield from map(Runner, wider)
    for threads in dict.fromkeys((cores, logical, cores - 1, cores // 2)):
        if 1 <= threads <= logical and threads != now:
            # The prompt's threads stay as they were: they have a knob of their own.
            yield Runner({"n_threads": threads, "n_threads_batch": batches})
    for attention in ("on", "off"):
        if plan.flash_attn != attention:
            yield Runner({"flash_attn": attention})
    yield Runner({"use_extra_bufts": not plan.use_extra_bufts})
    for threads in dict.fromkeys((logical, cores)):
        if threads != batches:
            yield Runner({"n_threads_batch": threads})
    yield from map(Runner, smaller)
    if plan.type_k == plan.type_v and plan.type_k in {"f32", "f16", "bf16"} and plan.flash_attn != "off":
        yield Runner({"type_k": "q8_0", "type_v": "q8_0", "flash_attn": "on"})  # values are quantized with it alone
    yield Runner({"use_mmap": not plan.use_mmap})
    felt = {min(plan.n_batch, n_prompt)}
    for size in (256, 128):
        if _new(min(size, n_prompt), felt):
            yield Runner({"n_batch": size, "n_ubatch": min(size, plan.n_ubatch)})


def _new(size: int, seen: set[int]) -> bool:
    """Whether `size` was not seen yet; now it is."""
    known = size in seen
    seen.add(size)
    return not known


def halve(track: Track, runners: list[Runner]) -> Runner:
    """The winner of the race; `runners[0]` is the plan's own. Appends to `runners` who joins on the way."""
    own = runners[0]
    running = [runner for runner in runners if not runner.why]
    share_s = track.left_s / (math.ceil(math.log2(max(len(running), 2))) + 1)
    room = max(int(share_s / max(track.request_s, 1e-6)), 1)
    for late in running[room:]:
        late.why = "no time"
    running = running[:room]
    rung = 0
    track.reserve_s = share_s  # for the last meeting
    while len(running) > 1 and track.left_s > share_s:
        rounds = max(1, int(share_s / (len(running) * max(track.request_s, 1e-6))))
        track.run(running, rounds=min(rounds, 2 + 2 * rung))
        running = sorted((one for one in running if not one.why), key=lambda one: -gain(one.best, own.best))
        if len(running) <= 2:
            break
        kept = running[: len(running) // 2]
        if rung == 0 and (both := _together(running, own)):
            runners.append(both)
            kept.append(both)
        running = kept if own in kept else [*kept, own]
        rung += 1
    for late in runners[1:]:
        late.why = late.why or ("" if late.times else "no time")
    return max((one for one in running if one.times), key=lambda one: gain(one.best, own.best), default=own)


def _together(ranked: Sequence[Runner], own: Runner) -> Runner | None:
    """All turns that won on their own, the better one where two turn the same knob; None where it is nobody new."""
    turns: Turns = {}
    for runner in ranked:
        if gain(runner.best, own.best) > 1 + NOISE / 2 and not set(runner.turns) & set(turns):
            turns |= runner.turns
    return Runner(turns) if all(turns != runner.turns for runner in ranked) else None


def meet(track: Track, own: Runner, winner: Runner) -> tuple[Runner, Runner]:
    """The plan's own and the winner, from new: turn by turn, also where they do not share a load of the model."""
    if winner is own or not winner.times:
        return own, own
    before, after = Runner(own.turns), Runner(winner.turns)
    track.reserve_s = 0.0
    if len(list(_by_load(track.plan, [before, after]))) == 1:
        track.run([before, after], rounds=_FINAL_ROUNDS)
    else:
        for _ in range(2):
            track.run([before], rounds=2)
            track.run([after], rounds=2)
    return (before, after) if before.times and after.times else (own, own)


def _by_load(plan: Parameters, runners: Sequence[Runner]) -> Iterator[list[Runner]]:
    groups: dict[tuple[bool, bool], list[Runner]] = {}
    for runner in runners:
        wanted = replace(plan, **runner.turns)
        groups.setdefault((wanted.use_mmap, wanted.use_extra_bufts), []).append(runner)
    yield from groups.values()


def ratios(times: Times, than: Times) -> tuple[float, float]:
    return than[0] / times[0], than[1] / times[1]


def gain(times: Times, than: Times) -> float:
    """How many times as fast; 0 for who has not run."""
    if not all(map(math.isfinite, (*times, *than))):
        return 0.0
    prompt, answer = ratios(times, than)
    return math.sqrt(prompt * answer)
