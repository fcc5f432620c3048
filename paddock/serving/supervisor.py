"""Keeps one engine running: starts it, watches it, starts it again, and gives up.

A *strike* is an engine that died, hung, or took more memory than was planned; also a start that failed, once a first
one has succeeded. After a strike the engine is started again, at once the first time and after a growing pause then.
Three strikes within ten minutes, and the supervisor stops and says what each of them was: what fails so often fails
for a reason that no restart mends.

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
from paddock.serving.process import EngineProcess

_LOG = logging.getLogger(__name__)
_COMPUTES = 0.05
"""Of one processor's time: who uses less does not compute."""


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`start_s` bounds a load; `pulse_s` is how often the engine is looked at. `silent_s` is how long it may leave a
    look or a request without a sign of life when it does not compute either, and `busy_s` when it does: a large batch
    on a slow machine is no hang. `pauses_s` stand before each restart."""

    start_s: float
    pulse_s: float = 1.0
    silent_s: float = 60.0
    busy_s: float = 1800.0
    strikes: int = 3
    forgiven_after_s: float = 600.0
    pauses_s: tuple[float, ...] = (0.1, 2.0)


class Supervisor:
    """`make` gives an engine that was not started yet, and `lost` is called whenever the running one is gone. It may
    hold `planned_bytes` and the margin."""

    def __init__(
        self,
        make: Callable[[], EngineProcess],
        *,
        limits: Limits,
        planned_bytes: int,
        margin_bytes: int,
        lost: Callable[[], None],
    ) -> None:
        self._make = make
        self._limits = limits
        self._planned_bytes = planned_bytes
        self._margin_bytes = margin_bytes
        self._lost = lost
        self._strikes: list[tuple[float, str]] = []
        self._warned = False
        self._looked = time.monotonic(), 0.0
        self._silent_since = time.monotonic()
        self.state = State.STARTING
        self.engine: EngineProcess | None = None
        self.restarts = 0

    @property
    def planned_bytes(self) -> int:
        return self._planned_bytes

    async def start(self) -> None:
        """The first start. It is not tried again: what keeps a model from loading once keeps it again. Raises as
        `EngineProcess.start`."""
        try:
            await self._start()
        except PaddockError:
            self.state = State.FAILED
            raise

    async def run(self) -> None:
        """Keep a started engine running until cancelled. Raises EngineCrashed after the last strike."""
        while True:
            why = await self._watch()
            self.state = State.RESTARTING
            await self._replace(why)

    def leave(self) -> None:
        """From now on the engine is only waited for."""
        self.state = State.STOPPING

    async def stop(self, *, now: bool = False) -> None:
        if self.state is not State.FAILED:
            self.state = State.STOPPING
        if self.engine is not None:
            await self.engine.stop(now=now)

    async def _start(self) -> None:
        self.engine = self._make()
        await self.engine.start(timeout_s=self._limits.start_s)
        self._silent_since = time.monotonic()
        self._looked = self._silent_since, self.engine.processor_s()
        self.state = State.READY

    async def _replace(self, why: PaddockError) -> None:
        while True:
            self._lost()
            if self.engine is not None:
                await self.engine.stop(now=True)
            self._strike(why)
            self.restarts += 1
            pause = self._limits.pauses_s[min(len(self._strikes), len(self._limits.pauses_s)) - 1]
            _LOG.warning("%s: strike %d, started again in %.1f s", why.message, len(self._strikes), pause)
            await asyncio.sleep(pause)
            try:
                await self._start()
            except PaddockError as error:
                why = error
            else:
                return

    def _strike(self, why: PaddockError) -> None:
        now = time.monotonic()
        self._strikes = [one for one in self._strikes if now - one[0] < self._limits.forgiven_after_s]
        self._strikes.append((now, why.message))
        if len(self._strikes) < self._limits.strikes:
            return
        self.state = State.FAILED
        each = "; ".join(f"{number}. {message}" for number, (_, message) in enumerate(self._strikes, 1))
        seconds = now - self._strikes[0][0]
        raise EngineCrashed(
            f"the engine failed {len(self._strikes)} times in {seconds:.0f} s and is not started again: {each}",
            cure=why.cure,
        )

    async def _watch(self) -> PaddockError:
        """Until the running engine has to be replaced, and why."""
        engine = self.engine
        assert engine is not None  # noqa: S101 - it was started
        ended = asyncio.create_task(engine.wait())
        try:
            while True:
                await asyncio.wait({ended}, timeout=self._limits.pulse_s)
                if ended.done():
                    return ended.result()
                problem = self._memory(engine) or await self._silence(engine)
                if problem is not None and not ended.done():
                    return problem
        finally:
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await ended

    def _memory(self, engine: EngineProcess) -> PaddockError | None:
        """What is mapped from the model's files is not counted: the system takes it back when it needs it. What the
        engine repacks of it is, here and in the plan."""
        _, held = engine.resident_bytes()
        bound = self._planned_bytes + self._margin_bytes
        if held > bound:
            return EngineOutOfMemory(
                f"the engine holds {human_bytes(held)}, and {human_bytes(self._planned_bytes)} were planned",
                cure="use a smaller context, or report which model and engine this is",
            )
        if held > self._planned_bytes and not self._warned:
            self._warned = True
            _LOG.warning("the engine holds %s, over the plan's %s", human_bytes(held), human_bytes(self._planned_bytes))
        return None

    async def _silence(self, engine: EngineProcess) -> PaddockError | None:
        bound = self._limits.silent_s
        try:
            async with asyncio.timeout(bound):
                silent_s = await engine.stalled_s()
        except (TimeoutError, httpx.TimeoutException):
            silent_s = bound
        except httpx.HTTPError:  # it is dying: how, `wait` will tell
            return None
        now, used_s = time.monotonic(), engine.processor_s()
        before, had_s = self._looked
        self._looked = now, used_s
        if silent_s < bound:
            self._silent_since = now
            return None
        computes = used_s - had_s > _COMPUTES * (now - before)
        silent_s = max(silent_s, now - self._silent_since)
        if computes and silent_s < self._limits.busy_s:
            return None
        return EngineCrashed(
            f"the engine hangs: no sign of life for {silent_s:.0f} s",
            cure="use a smaller context or batch, or fewer threads",
        )
