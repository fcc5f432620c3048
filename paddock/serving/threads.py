"""Run a blocking call in a daemon thread, for calls that touch a volume.

A network file system may block a call for ever. The event loop's own threads would then keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, discard: Callable[[T], None] | None = None) -> T:
    """Run `call` in a daemon thread of its own, and return its result. If the wait is cancelled, the thread goes on,
    and `discard` is called with the result."""
    outcome: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as error:  # the caller gets it
            with suppress(InvalidStateError):
                outcome.set_exception(error)
            return
        try:
            outcome.set_result(result)
        except InvalidStateError:  # the wait was cancelled
            if discard is not None:
                discard(result)

    _start(run)
    try:
        return await asyncio.wrap_future(outcome)
    except asyncio.CancelledError:
        if not outcome.cancel() and outcome.exception() is None and discard is not None:
            result = outcome.result()
            _start(lambda: discard(result))
        raise


def _start(target: Callable[[], None]) -> None:
    threading.Thread(target=target, daemon=True, name="paddock-blocking-call").start()
