"""The queue in front of the engine: as many requests run at once as it has slots, and a bounded number wait behind
them, first come, first served. One more is turned away, with the time after which a place is likely."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):
    """No place to wait either. `retry_after_s` is when one is likely."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class TurnedAway(Exception):
    """Who waited waits no longer: its message says why."""


class AdmissionQueue:
    def __init__(self, slots: int, *, waiting: int) -> None:
        self._slots = slots
        self._room = waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_s = 1.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place at the engine, and hold it. Raises Full, TurnedAway."""
        await self._enter()
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_s = 0.8 * self._mean_s + 0.2 * (time.monotonic() - began)
            self._leave()

    async def idle(self) -> None:
        """Wait until nobody has a place."""
        await self._idle.wait()

    def turn_away(self, why: str) -> None:
        """Send everyone away who waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(TurnedAway(why))

    async def _enter(self) -> None:
        if self.running < self._slots:
            self.running += 1
            self._idle.clear()
            return
        if len(self._queue) >= self._room:
            raise QueueFull(max(1, math.ceil(self._mean_s * (len(self._queue) + 1) / self._slots)))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()  # its turn came just as it left
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        """Hand the place on, or give it up."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
        if not self.running:
            self._idle.set()
