"""Watch a newly promoted revision: compare its answers with those of the revision before, and go back if it is worse.

    watching -> kept                nothing worse was found in the time of the watch
             -> rolled-back         the promotion was rolled back, and the server follows that
             -> rolled-back-here    the volume could not be written: this server alone went back

What is worse, and what a rollback is, is decided by the `PromotionGuard`. A watch ends early where another revision is
promoted. An engine that is given up during a watch does not end the server: requests wait until the revision before is
loaded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from paddock.engine.disturbance import busy_s
from paddock.errors import PaddockError
from paddock.model.reference import SnapshotId
from paddock.serving.metrics import Metrics
from paddock.serving.observations import OtherLoad
from paddock.serving.switch.guard import Observed, PromotionGuard, RollbackOutcome, WatchedPromotion
from paddock.serving.switch.revision import ServedRevision
from paddock.serving.switch.revision_switch import RevisionSwitch
from paddock.serving.threads import in_thread

_LOG = logging.getLogger(__name__)
_SAMPLE_S = 1.0
_LAST_LOOKS = 2
"""A watch that ends looks this often once more, at answers that ended just before."""


class WatchState(StrEnum):
    WATCHING = "watching"
    KEPT = "kept"
    ROLLED_BACK = "rolled-back"
    ROLLED_BACK_HERE = "rolled-back-here"


@dataclass(frozen=True, slots=True)
class WatchReport:
    """The last watch: of which revision (`<variant>@<revision>`), its state, and why, or its figures."""

    revision: str
    state: WatchState
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "state": self.state, "reason": self.reason}


class PromotionWatch:
    """Watches one revision at a time. `on_refused` is called with (revision, revision before) where the rollback is
    refused, so that this server alone has to go back. `run` samples the machine's other load until it is cancelled."""

    def __init__(
        self,
        guard: PromotionGuard,
        switch: RevisionSwitch,
        metrics: Metrics,
        *,
        every_s: float,
    ) -> None:
        self._guard = guard
        self._switch = switch
        self._metrics = metrics
        self._every_s = every_s
        self.on_refused: Callable[[SnapshotId, SnapshotId], None] = lambda *_: None
        self._load = OtherLoad()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._revertible: ServedRevision | None = None
        self._failure = ""
        self._given_up = asyncio.Event()
        self.report: WatchReport | None = None

    async def run(self) -> None:
        self._switch.on_given_up = self._engine_given_up
        before, used = busy_s(), self._own_s()
        try:
            while True:
                await asyncio.sleep(_SAMPLE_S)
                now, own = busy_s(), self._own_s()
                if before is not None and now is not None:
                    ours = sum(max(0.0, seconds - used.get(key, 0.0)) for key, seconds in own.items())
                    self._load.add(time.perf_counter(), max(0.0, now - before - ours))
                before, used = now, own
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, before: ServedRevision, switched_at: float) -> None:
        """Watch the current revision, if its promotion made the server switch from `before`. The switch began at
        `switched_at`."""
        current = self._switch.current
        if self._guard.watch_s <= 0 or before.spec.id == current.spec.id:
            return
        self._revertible, self._failure = current, ""
        self._given_up.clear()
        self._watching = task = asyncio.create_task(self._try_to_watch(current, before, switched_at))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """End the watch, since a switch begins. A rollback that has begun goes on."""
        if self._watching is not None:
            self._watching.cancel()
            self._stopped()
            if self.report is not None and self.report.state is WatchState.WATCHING:
                self.report = None

    def switch_failed(self) -> None:
        """The current revision stays: an engine of it that was given up ends the server."""
        self._revertible = None
        self._switch.end_if_given_up(self._switch.current)

    def is_promoted(self) -> None:
        """The name stands for the current revision: an engine of it that was given up ends the server, unless its
        promotion is about to be rolled back."""
        if self._revertible is not self._switch.current:
            self._switch.end_if_given_up(self._switch.current)

    def _stopped(self) -> None:
        self._watching = None
        self._metrics.watching.set(0)

    async def _try_to_watch(self, current: ServedRevision, before: ServedRevision, switched_at: float) -> None:
        try:
            await self._watch(current, before, switched_at)
        except Exception as error:  # whatever fails, the server goes on
            _LOG.warning("%s is not watched any more: %s: %s", current.spec.id, type(error).__name__, error)
            self._forget(current)

    def _forget(self, revision: ServedRevision) -> None:
        """Watch a revision no longer, and let an engine of it that is given up end the server."""
        if self._revertible is revision:
            self._revertible = None
            self._stopped()
            if self.report is not None and self.report.state is WatchState.WATCHING:
                self.report = None

    async def _watch(self, current: ServedRevision, before: ServedRevision, switched_at: float) -> None:
        began, restarts, strikes = time.perf_counter(), current.supervisor.restarts, current.supervisor.strikes
        id, earlier = current.spec.id, before.spec.id
        promotion = await in_thread(lambda: self._guard.promotion(id, earlier))
        if promotion is None:
            self._forget(current)
            return
        _LOG.info("%s is watched for %g s, and compared with %s", id, self._guard.watch_s, earlier)
        self._metrics.watching.set(1)
        self._set(current, WatchState.WATCHING, f"compared with {before.label} for {self._guard.watch_s:g} s")
        settled, looks_left = float("inf"), _LAST_LOOKS
        earlier_answers: Observed | None = None
        while looks_left > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._given_up.wait(), self._every_s)
            if settled == float("inf"):  # until it is closed, the revision before may give further answers
                earlier_answers = self._observed(before, undisturbed_to=switched_at)
                settled = time.perf_counter() if len(self._switch.loaded) == 1 else settled
            assert earlier_answers is not None  # noqa: S101 - by the first look
            answers = self._observed(current, since=began, undisturbed_from=settled, restarts=restarts, strikes=strikes)
            judgement = await in_thread(partial(promotion.compare, earlier_answers, answers))
            for name, ratio in judgement.ratios.items():
                self._metrics.watch_ratio.labels(name).set(ratio)
            reason = self._failure or judgement.worse
            if reason:
                self._stopped()  # so that `end` does not cancel the rollback
                await self._roll_back(promotion, current, before, reason)
                return
            looks_left -= time.perf_counter() - began >= self._guard.watch_s
        _LOG.info("%s is kept: %s", id, judgement.summary)
        self._set(current, WatchState.KEPT, judgement.summary)
        self._forget(current)

    def _observed(
        self,
        revision: ServedRevision,
        *,
        since: float | None = None,
        undisturbed_from: float = 0.0,
        undisturbed_to: float = float("inf"),
        restarts: int = 0,
        strikes: int = 0,
    ) -> Observed:
        """The observations of a revision `since` a time, and since its engine had so many restarts and strikes."""
        observations, supervisor = revision.observations, revision.supervisor
        since = observations.since if since is None else since
        return Observed(
            id=revision.spec.id,
            answers=tuple(one for one in observations.answers if one.began >= since and one.restart >= restarts),
            restarts=supervisor.restarts + (not revision.is_ready),
            strikes=supervisor.strikes - strikes,
            served_s=min(time.perf_counter(), undisturbed_to) - since,
            undisturbed_from=undisturbed_from,
            undisturbed_to=undisturbed_to,
            load=self._load.samples,
            cores=os.cpu_count() or 1,
            on_gpu=revision.spec.on_gpu,
        )

    async def _roll_back(
        self, promotion: WatchedPromotion, current: ServedRevision, before: ServedRevision, reason: str
    ) -> None:
        _LOG.warning("%s is worse than %s, and is rolled back: %s", current.spec.id, before.label, reason)
        outcome, why_not = await in_thread(lambda: promotion.roll_back(reason))
        self._metrics.rollbacks.labels(outcome.value).inc()
        if outcome is RollbackOutcome.ROLLED_BACK:
            self._set(current, WatchState.ROLLED_BACK, reason)
        elif outcome is RollbackOutcome.OVERTAKEN:
            _LOG.info("the promotion of %s is not rolled back: %s", current.spec.id, why_not)
            self._forget(current)
        elif self._switch.current is current:
            self._set(current, WatchState.ROLLED_BACK_HERE, f"{reason}. It stays promoted: {why_not}")
            _LOG.warning(
                "%s stays promoted, and this server alone goes back to %s until something else is promoted: %s",
                current.spec.id,
                before.label,
                why_not,
            )
            self.on_refused(current.spec.id, before.spec.id)

    def _engine_given_up(self, error: BaseException) -> bool:
        """Whether requests wait for the revision before, instead of an end of the server: the engine that was given up
        is that of a revision which is watched, or is being rolled back."""
        if self._revertible is not self._switch.current:
            return False
        self._failure = error.message if isinstance(error, PaddockError) else str(error)
        self._given_up.set()
        return True

    def _set(self, revision: ServedRevision, state: WatchState, reason: str) -> None:
        self.report = WatchReport(revision.label, state, reason)

    def _own_s(self) -> dict[object, float]:
        """The processor time of this process and of each of its engines."""
        engines = [revision.supervisor.engine for revision in self._switch.loaded]
        return {"": time.process_time(), **{engine: engine.processor_s() for engine in engines if engine is not None}}
