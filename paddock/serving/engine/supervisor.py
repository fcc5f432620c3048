"""Supervisor of the engine process: starts it, watches it, restarts it after a failure, and gives up in the end.

A *strike* is an engine that died, hung, or used more memory than planned, or a restart that failed, unless the requests
that it had explain it. After a strike the engine is restarted, at once the first time and with a growing pause after
that. After three strikes within ten minutes the supervisor stops and reports all of them: a failure
that repeats so fast has a cause that a restart does not remove.

    starting -> ready -> restarting -> ready -> … -> failed
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import httpx

from paddock.errors import EngineCrashed, EngineOutOfMemory, PaddockError
from paddock.model.units import human_bytes
from paddock.serving.engine.process import EngineProcess

_LOG = logging.getLogger(__name__)
_BUSY_SHARE = 0.05
"""Share of one processor's time above which the engine counts as computing."""
_RENDERING_SHARE = 0.1
"""As above, for an engine whose main loop has no request."""


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    SWITCHING = "switching"
    DAMAGED = "damaged"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """Time limits and the retry budget of the supervisor, in seconds.

    `start_s`           for a load of the model
    `check_interval_s`  between two health checks
    `stalled_s`         without progress on a request or a health check while the engine uses no processor time, or one
                        of several threads only
    `busy_s`            the same while it computes: a large batch on a slow machine is not a hang
    `strikes`           failures within `forgiven_after_s` after which the supervisor gives up
    `pauses_s`          before the first, second, … restart; the last one repeats
    """

    start_s: float
    check_interval_s: float = 1.0
    stalled_s: float = 60.0
    busy_s: float = 1800.0
    strikes: int = 3
    forgiven_after_s: float = 600.0
    pauses_s: tuple[float, ...] = (0.1, 2.0)


class Supervisor:
    """Keep one engine process running.

    `make_process` returns a new process that was not started yet. `on_lost` is called whenever the running one is lost,
    and returns whether the requests that it had explain the loss: then it is no strike. The process may hold at most
    `planned_bytes` plus `margin_bytes`.
    """

    def __init__(
        self,
        make_process: Callable[[], EngineProcess],
        *,
        limits: SupervisorLimits,
        planned_bytes: int,
        margin_bytes: int,
        on_lost: Callable[[], bool],
    ) -> None:
        self._make_process = make_process
        self._limits = limits
        self._planned_bytes = planned_bytes
        self._margin_bytes = margin_bytes
        self._on_lost = on_lost
        self._strikes: list[tuple[float, str]] = []
        self._warned_memory = False
        self._last_check = time.monotonic(), 0.0, 0.0
        self._last_progress = self._last_idle = time.monotonic()
        self.state = State.STARTING
        self.engine: EngineProcess | None = None
        self.restarts = 0
        self.strikes = 0
        """Strikes since the engine was first started."""

    @property
    def planned_bytes(self) -> int:
        return self._planned_bytes

    async def start(self) -> None:
        """Start the engine for the first time, without retries: a model that fails to load once fails again.

        Raises as `EngineProcess.start`.
        """
        try:
            await self._start()
        except PaddockError:
            self.state = State.FAILED
            raise

    async def run(self) -> None:
        """Keep a started engine running until cancelled. Raises EngineCrashed after the last strike."""
        while True:
            cause = await self._watch()
            self.state = State.RESTARTING
            await self._restart(cause)

    async def drain(self) -> None:
        """Watch an engine that gets no new requests, until cancelled. If it fails, it is not started again."""
        if self.state is not State.READY:
            return
        cause = await self._watch()
        self.state = State.FAILED
        _LOG.warning("%s, while it gave its last answers", cause.message)
        assert self.engine is not None  # noqa: S101 - it was started
        await self.engine.stop(now=True)

    async def resume(self) -> None:
        """Start the engine again after `stop` or `drain`. A failure counts as a strike. Raises EngineCrashed after the
        last strike."""
        self.state = State.RESTARTING
        try:
            await self._start()
        except PaddockError as error:
            await self._restart(error)

    def begin_shutdown(self) -> None:
        """Enter the state `stopping`; the engine keeps answering its running requests."""
        self.state = State.STOPPING

    async def stop(self, *, now: bool = False) -> None:
        if self.state is not State.FAILED:
            self.state = State.STOPPING
        if self.engine is not None:
            await self.engine.stop(now=now)

    async def _start(self) -> None:
        self.engine = self._make_process()
        await self.engine.start(timeout_s=self._limits.start_s)
        self._last_progress = self._last_idle = time.monotonic()
        self._last_check = self._last_progress, *self.engine.threads_s()
        self.state = State.READY

    async def _restart(self, cause: PaddockError) -> None:
        while True:
            is_explained = self._on_lost()
            if self.engine is not None:
                await self.engine.stop(now=True)
            if not is_explained:
                self._strike(cause)
            self.restarts += 1
            pause = self._limits.pauses_s[min(max(len(self._strikes), 1), len(self._limits.pauses_s)) - 1]
            counted = "its requests are suspected" if is_explained else f"strike {len(self._strikes)}"
            _LOG.warning("%s: %s, restart in %.1f s", cause.message, counted, pause)
            await asyncio.sleep(pause)
            try:
                await self._start()
            except PaddockError as error:
                cause = error
            else:
                return

    def _strike(self, cause: PaddockError) -> None:
        self.strikes += 1
        now = time.monotonic()
        self._strikes = [strike for strike in self._strikes if now - strike[0] < self._limits.forgiven_after_s]
        self._strikes.append((now, cause.message))
        if len(self._strikes) < self._limits.strikes:
            return
        self.state = State.FAILED
        causes = "; ".join(f"{number}. {message}" for number, (_, message) in enumerate(self._strikes, 1))
        seconds = now - self._strikes[0][0]
        raise EngineCrashed(
            f"the engine failed {len(self._strikes)} times in {seconds:.0f} s and is not restarted: {causes}",
            cure=cause.cure,
        )

    async def _watch(self) -> PaddockError:
        """Wait until the running engine has to be replaced, and return the cause."""
        engine = self.engine
        assert engine is not None  # noqa: S101 - it was started
        ended = asyncio.create_task(engine.wait())
        try:
            while True:
                await asyncio.wait({ended}, timeout=self._limits.check_interval_s)
                if ended.done():
                    return ended.result()
                problem = self._check_memory(engine) or await self._check_progress(engine)
                if problem is not None and not ended.done():
                    return problem
        finally:
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await ended

    def _check_memory(self, engine: EngineProcess) -> PaddockError | None:
        """Return an error if the engine holds more memory than planned plus the margin.

        What is mapped from the model's files is not counted, since the system can reclaim it. Repacked weights are
        counted, here and in the plan.
        """
        _, held = engine.resident_bytes()
        bound = self._planned_bytes + self._margin_bytes
        if held > bound:
            return EngineOutOfMemory(
                f"the engine holds {human_bytes(held)}, but only {human_bytes(self._planned_bytes)} were planned",
                cure="use a smaller context, or report which model and engine this is",
            )
        if held > self._planned_bytes and not self._warned_memory:
            self._warned_memory = True
            _LOG.warning(
                "the engine holds %s, more than the planned %s", human_bytes(held), human_bytes(self._planned_bytes)
            )
        return None

    async def _check_progress(self, engine: EngineProcess) -> PaddockError | None:
        """Return an error if the engine made no progress for too long."""
        limit_s = self._limits.stalled_s
        try:
            async with asyncio.timeout(limit_s):
                has_request = await engine.check_progress()
            answered = True
        except (TimeoutError, httpx.TimeoutException):
            answered, has_request = False, True
        except httpx.HTTPError:  # it is dying; `EngineProcess.wait` reports how
            return None
        now, (main_s, others_s) = time.monotonic(), engine.threads_s()
        before, main_before_s, others_before_s = self._last_check
        self._last_check = now, main_s, others_s
        main_s, others_s = main_s - main_before_s, others_s - others_before_s
        if answered:
            self._last_progress = now
            return self._check_idle(now, has_request or main_s + others_s < _RENDERING_SHARE * (now - before))
        computes = main_s + others_s > _BUSY_SHARE * (now - before)
        stalled_s = max(limit_s, now - self._last_progress)
        # A batch keeps all threads busy; a grammar that has grown beyond measure only the thread of the main loop.
        samples = engine.computes_in_parallel and others_s < _BUSY_SHARE * main_s
        if computes and not samples and stalled_s < self._limits.busy_s:
            return None
        return EngineCrashed(
            f"the engine hangs: no progress for {stalled_s:.0f} s",
            cure="use a smaller context or batch, or fewer threads",
        )

    def _check_idle(self, now: float, is_idle_or_answers: bool) -> PaddockError | None:
        """Return an error if a thread of the engine computes for too long, and not for its main loop: it renders or
        tokenizes a request, and does not see that the client has left."""
        if is_idle_or_answers:
            self._last_idle = now
        if now - self._last_idle < self._limits.stalled_s:
            return None
        return EngineCrashed(
            f"the engine hangs: it prepares a request for {now - self._last_idle:.0f} s",
            cure="run `paddock inspect` on the model, and look at its chat template",
        )
