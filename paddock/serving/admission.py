"""First-in, first-out admission queue in front of the engine.

As many requests run at once as the engine has slots, and a bounded number wait for a slot. A request beyond that is
rejected with an estimate of when to retry.

Another engine can take the place of the one in front of which the queue stands (`use`): waiting requests go to the new
one, and those that run keep their slots of the old one. Without an engine (`hold`), requests wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class HasSlots(Protocol):
    @property
    def slots(self) -> int:
        """Number of requests that it answers at once."""
        ...


E = TypeVar("E", bound=HasSlots)


class QueueFull(Exception):
    """The request was rejected because the queue is full; a place is likely after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class WaitAborted(Exception):
    """A waiting request was removed from the queue by `abort_waiting`; the message is its reason."""


class AdmissionQueue(Generic[E]):
    """Admit as many requests at once as the engine has slots, and up to `max_waiting` more to the queue."""

    def __init__(self, *, max_waiting: int) -> None:
        self._engine: E | None = None
        self._running: dict[E, int] = {}
        self._max_waiting = max_waiting
        self._queue: deque[asyncio.Future[E]] = deque()
        self._mean_s = 1.0
        self._slots = 1
        self._released = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of requests that hold a slot, of any engine."""
        return sum(self._running.values())

    def running_on(self, engine: E) -> int:
        return self._running.get(engine, 0)

    def use(self, engine: E) -> None:
        """Give slots of this engine to waiting and new requests."""
        self._engine = engine
        self._slots = engine.slots
        self._admit_waiting()

    def hold(self) -> None:
        """Let waiting and new requests wait until the next `use`."""
        self._engine = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[E]:
        """Wait for a slot and hold it, as a context manager; yields its engine. Raises QueueFull, WaitAborted."""
        engine = await self._acquire()
        began = time.monotonic()
        try:
            yield engine
        finally:
            self._mean_s = 0.8 * self._mean_s + 0.2 * (time.monotonic() - began)
            self._release(engine)

    async def wait_idle(self, engine: E | None = None) -> None:
        """Wait until no request holds a slot of that engine, by default of any."""
        while self.running if engine is None else self.running_on(engine):
            self._released.clear()
            await self._released.wait()

    def abort_waiting(self, reason: str) -> None:
        """Make every waiting request raise WaitAborted; running ones are not affected."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(WaitAborted(reason))

    async def _acquire(self) -> E:
        if self._engine is not None and self._has_free_slot(self._engine):
            return self._take(self._engine)
        if len(self._queue) >= self._max_waiting:
            raise QueueFull(max(1, math.ceil(self._mean_s * (len(self._queue) + 1) / self._slots)))
        waiter: asyncio.Future[E] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())  # it was given a slot at the moment it was cancelled
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise

    def _has_free_slot(self, engine: E) -> bool:
        return self.running_on(engine) < engine.slots

    def _take(self, engine: E) -> E:
        self._running[engine] = self.running_on(engine) + 1
        return engine

    def _release(self, engine: E) -> None:
        self._running[engine] -= 1
        if not self._running[engine]:
            del self._running[engine]
        self._admit_waiting()
        self._released.set()

    def _admit_waiting(self) -> None:
        """Give the free slots of the engine to the requests that wait longest."""
        while self._queue and self._engine is not None and self._has_free_slot(self._engine):
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(self._take(self._engine))
