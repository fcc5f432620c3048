"""Maintain the volume: remove orphans, scrub and repair, evict, sum up usage, and record the volume's use.

Every step is tried, also when one before it failed: a damaged blob that cannot be repaired now is no reason to keep
what nobody needs. At the end, failed steps and damage that stays are raised as one error.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from paddock.errors import MaintenanceFailed, NotOnVolume, PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import Runner, Step, step
from paddock.lifecycle.upkeep import volume_use
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.orphans import clean_orphans
from paddock.lifecycle.upkeep.remote_eviction import evict_remote
from paddock.lifecycle.upkeep.scrub import Scrubbed, scrub, scrub_remote
from paddock.lifecycle.upkeep.usage import sum_up_usage
from paddock.lifecycle.upkeep.volume_use import UseHistory

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class MaintenanceRequest:
    """How to maintain the volume. `limit_bytes_per_s` and `max_seconds` bound the scrubs: what is not read in time is
    read by the next maintenance. `keep_bytes` and `remote_keep_bytes` are the budgets of the volume and of the remote
    store; None: those of the settings."""

    repair: bool = True
    limit_bytes_per_s: int | None = None
    max_seconds: float | None = None
    keep_bytes: int | None = None
    remote_keep_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of a step. `failure` is the error that it raised, or the damage that it left; None: neither."""

    step: str
    seconds: float
    line: str
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "line": self.line,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class Maintained:
    """The result of a maintenance: the outcome of each step, and the volume's use since its first maintenance.
    `held_by` is set where another process was maintaining the volume, and nothing was done."""

    outcomes: tuple[StepOutcome, ...] = ()
    history: UseHistory | None = None
    held_by: str | None = None

    @property
    def failures(self) -> tuple[StepOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.failure is not None)

    @property
    def line(self) -> str:
        if self.held_by is not None:
            return f"nothing was done: the volume is being maintained by {self.held_by}"
        done = [outcome.line for outcome in self.outcomes if outcome.failure is None and outcome.line]
        return "; ".join(done)

    def to_json(self) -> dict[str, Any]:
        return {
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "history": self.history.to_json() if self.history else None,
            "held_by": self.held_by,
        }


@step(Kind.LOCAL, "summarize", line=lambda maintained: maintained.line)
def summarize(clients: Clients, outcomes: tuple[StepOutcome, ...]) -> Maintained:
    """Record the volume's use, and put the outcomes of the other steps together."""
    return Maintained(outcomes, volume_use.record(clients))


def maintain(runner: Runner, request: MaintenanceRequest) -> Maintained:
    """Carry out every step of a maintenance. Does nothing while another process maintains the volume.

    Raises MaintenanceFailed after the last step where a step failed or damage stays, NotOnVolume where there is no
    volume, and NoPermission where it cannot be written.
    """
    volume = runner.clients.volume
    if not volume.exists:
        raise NotOnVolume(
            f"there is no volume at {volume.root}",
            cure="set PADDOCK_VOLUME to the volume's directory; `paddock pull MODEL` makes a new one",
        )
    with volume.maintenance_lock.hold() as held_by:
        return Maintained(held_by=held_by) if held_by else _run_steps(runner, request)


def _run_steps(runner: Runner, request: MaintenanceRequest) -> Maintained:
    attempts = _Attempts(runner)
    began, limit, seconds = time.monotonic(), request.limit_bytes_per_s, request.max_seconds
    # The volume gets half of the time, so that a large volume does not keep the remote store from ever being read.
    share = seconds / 2 if seconds is not None and runner.clients.remote else seconds
    attempts.run(clean_orphans)
    attempts.run(scrub, repair=request.repair, limit_bytes_per_s=limit, max_seconds=share)
    if runner.clients.remote:
        left = None if seconds is None else max(1.0, seconds - (time.monotonic() - began))
        attempts.run(scrub_remote, repair=request.repair, limit_bytes_per_s=limit, max_seconds=left)
    attempts.run(evict, keep_bytes=request.keep_bytes)
    attempts.run(sum_up_usage)
    if runner.clients.remote:
        attempts.run(evict_remote, keep_bytes=request.remote_keep_bytes)
    maintained = attempts.run(summarize, tuple(attempts.outcomes)) or Maintained(tuple(attempts.outcomes))
    failed = [f"{outcome.step}: {outcome.failure}" for outcome in attempts.outcomes if outcome.failure is not None]
    if failed:
        raise MaintenanceFailed(
            f"{len(failed)} of {len(attempts.outcomes)} steps of the maintenance of {runner.clients.volume.label}"
            f" failed, and the others were carried out: {'; '.join(failed)}",
            cure="do what is said there, then run the maintenance again",
        )
    return maintained


class _Attempts:
    """Runs steps, and keeps the outcome of each instead of raising its error."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.outcomes: list[StepOutcome] = []

    def run(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        name, began = step.name.replace("_", " "), time.monotonic()
        try:
            result = self._runner.run(step, *args, **kwargs)
        except PaddockError as error:
            self.outcomes.append(StepOutcome(name, time.monotonic() - began, "", str(error)))
            return None
        line = step.line(result) if step.line else ""
        damage = _damage(result) if isinstance(result, Scrubbed) else None
        self.outcomes.append(StepOutcome(name, time.monotonic() - began, line, damage))
        return result


def _damage(scrubbed: Scrubbed) -> str | None:
    """The damage that a scrub left, and why; None where there is none."""
    if scrubbed.ok:
        return None
    left = len({file.sha256 for file in scrubbed.damaged if not file.ok})
    stays = [f"{left} damaged {'blob stays' if left == 1 else 'blobs stay'}"] if left else []
    return ": ".join([*stays, *(["; ".join(scrubbed.problems)] if scrubbed.problems else [])])
