"""The admission queue: first in, first out, bounded, and a cancelled request keeps no slot."""

from __future__ import annotations

import asyncio

import pytest

from paddock.serving.admission import AdmissionQueue, QueueFull, WaitAborted


class Engine:
    def __init__(self, slots: int) -> None:
        self.slots = slots


def queue_of(slots: int, *, max_waiting: int) -> AdmissionQueue[Engine]:
    queue = AdmissionQueue[Engine](max_waiting=max_waiting)
    queue.use(Engine(slots))
    return queue


async def hold(queue: AdmissionQueue[Engine], name: str, order: list[str], until: asyncio.Event) -> None:
    async with queue.slot():
        order.append(name)
        await until.wait()


def test_requests_run_in_order_and_at_most_one_for_each_slot() -> None:
    async def scenario() -> None:
        queue, order, until = queue_of(2, max_waiting=4), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(hold(queue, name, order, until)) for name in "abcde"]
        await asyncio.sleep(0.01)
        assert (order, queue.running, queue.waiting) == (["a", "b"], 2, 3)
        until.set()
        await asyncio.gather(*tasks)
        assert order == list("abcde")
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_request_beyond_the_queue_is_rejected_with_a_time_to_retry() -> None:
    async def scenario() -> None:
        queue, until = queue_of(1, max_waiting=1), asyncio.Event()
        tasks = [asyncio.create_task(hold(queue, name, [], until)) for name in "ab"]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull) as full:
            async with queue.slot():
                raise AssertionError("the queue admitted a request although it was full")
        assert full.value.retry_after_s >= 1
        until.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def scenario() -> None:
        queue, order, until = queue_of(1, max_waiting=4), list[str](), asyncio.Event()
        tasks = {name: asyncio.create_task(hold(queue, name, order, until)) for name in "abc"}
        await asyncio.sleep(0.01)
        tasks["b"].cancel()
        await asyncio.sleep(0.01)
        assert queue.waiting == 1
        until.set()
        await asyncio.gather(tasks["a"], tasks["c"])
        assert order == ["a", "c"]
        assert queue.running == 0

    asyncio.run(scenario())


def test_a_request_cancelled_when_it_gets_its_slot_passes_the_slot_on() -> None:
    async def scenario() -> None:
        queue, order, until = queue_of(1, max_waiting=4), list[str](), asyncio.Event()
        first = asyncio.create_task(hold(queue, "a", order, until))
        second = asyncio.create_task(hold(queue, "b", order, until))
        third = asyncio.create_task(hold(queue, "c", order, until))
        await asyncio.sleep(0.01)
        until.set()
        await first  # b was given the slot, but has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.wait_for(third, 1)
        assert (order[-1], queue.running) == ("c", 0)

    asyncio.run(scenario())


def test_all_waiting_requests_can_be_aborted_with_a_reason() -> None:
    async def scenario() -> None:
        queue, until = queue_of(1, max_waiting=4), asyncio.Event()
        tasks = [asyncio.create_task(hold(queue, name, [], until)) for name in "abc"]
        await asyncio.sleep(0.01)
        queue.abort_waiting("the engine died")
        results = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert [str(error) for error in results if isinstance(error, WaitAborted)] == ["the engine died"] * 2
        until.set()
        await tasks[0]
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(scenario())


def test_another_engine_takes_waiting_requests_and_the_one_before_keeps_its_own() -> None:
    async def scenario() -> None:
        queue, order, until = AdmissionQueue[Engine](max_waiting=8), list[str](), asyncio.Event()
        old, new = Engine(3), Engine(2)
        queue.use(old)
        tasks = [asyncio.create_task(hold(queue, name, order, until)) for name in "abcdefg"]
        await asyncio.sleep(0.01)
        queue.use(new)
        await asyncio.sleep(0.01)
        assert (order, queue.waiting) == (list("abcde"), 2)
        assert (queue.running_on(old), queue.running_on(new), queue.running) == (3, 2, 5)
        for task in tasks[:3]:
            task.cancel()
        await asyncio.wait_for(queue.wait_idle(old), 1)
        assert (queue.running_on(new), queue.waiting) == (2, 2)  # a slot of the old engine is given to nobody
        until.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == list("abcdefg")

    asyncio.run(scenario())


def test_without_an_engine_requests_wait() -> None:
    async def scenario() -> None:
        queue, order, until = queue_of(2, max_waiting=2), list[str](), asyncio.Event()
        queue.hold()
        tasks = [asyncio.create_task(hold(queue, name, order, until)) for name in "abc"]
        await asyncio.sleep(0.01)
        assert (order, queue.waiting) == ([], 2)
        assert isinstance(tasks[2].exception(), QueueFull)
        queue.use(Engine(1))
        until.set()
        await asyncio.gather(*tasks[:2])
        assert order == list("ab")

    asyncio.run(scenario())
