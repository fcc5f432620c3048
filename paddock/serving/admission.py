"""First-in, first-out admission queue in front of the engine.

As many requests run at once as the engine has slots, and a bounded number wait for a slot. A request beyond that is
rejected with an estimate of when to retry.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):
    """The request was rejected because the queue is full; a place is likely after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class WaitAborted(Exception):
    """A waiting request was removed from the queue by `abort_waiting`; the message is its reason."""


class AdmissionQueue:
    """Admit up to `slots` requests at once, and up to `max_waiting` more to the queue."""

    def __init__(self, slots: int, *, max_waiting: int) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_s = 1.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot of the engine and hold it, as a context manager. Raises QueueFull, WaitAborted."""
        await self._acquire()
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_s = 0.8 * self._mean_s + 0.2 * (time.monotonic() - began)
            self._release()

    async def wait_idle(self) -> None:
        """Wait until no request holds a slot."""
        await self._idle.wait()

    def abort_waiting(self, reason: str) -> None:
        """Make every waiting request raise WaitAborted; running ones are not affected."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(WaitAborted(reason))

    async def _acquire(self) -> None:
        if self.running < self._slots:
            self.running += 1
            self._idle.clear()
            return
        if len(self._queue) >= self._max_waiting:
            raise QueueFull(max(1, math.ceil(self._mean_s * (len(self._queue) + 1) / self._slots)))
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release()  # it was given a slot at the moment it was cancelled
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise

    def _release(self) -> None:
        """Pass the slot to the first waiting request, or free it."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.running -= 1
        if not self.running:
            self._idle.set()
