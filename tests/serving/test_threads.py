"""Blocking calls in daemon threads: results, errors, and results that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from paddock.serving.threads import in_thread

NAME = contextvars.ContextVar("NAME", default="")


def test_a_call_returns_its_result_and_sees_the_caller_s_context() -> None:
    async def scenario() -> str:
        NAME.set("caller")
        return await in_thread(NAME.get)

    assert asyncio.run(scenario()) == "caller"


def test_a_call_raises_its_error() -> None:
    def fail() -> None:
        raise OSError("the volume is gone")

    async def scenario() -> None:
        await in_thread(fail)

    with pytest.raises(OSError, match="the volume is gone"):
        asyncio.run(scenario())


def test_the_result_of_a_call_whose_caller_was_cancelled_is_discarded() -> None:
    go_on, discarded = threading.Event(), threading.Event()
    found: list[int] = []

    def work() -> int:
        assert go_on.wait(30)
        return 7

    def discard(result: int) -> None:
        found.append(result)
        discarded.set()

    async def scenario() -> None:
        waiting = asyncio.create_task(in_thread(work, discard=discard))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())  # ends, although the call has not
    go_on.set()
    assert discarded.wait(30)
    assert found == [7]


def test_a_result_that_came_at_the_moment_of_the_cancellation_is_discarded() -> None:
    discarded = threading.Event()

    async def scenario() -> None:
        waiting = asyncio.create_task(in_thread(lambda: 7, discard=lambda _: discarded.set()))
        await asyncio.sleep(0)
        time.sleep(0.05)  # the thread ends, and the loop has not seen it
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    assert discarded.wait(30)
