"""The queue in front of the engine: first come, first served, bounded, and nobody who leaves keeps a place."""

from __future__ import annotations

import asyncio

import pytest

from paddock.serving.admission import AdmissionQueue, QueueFull, TurnedAway


async def hold(places: AdmissionQueue, name: str, order: list[str], until: asyncio.Event) -> None:
    async with places.place():
        order.append(name)
        await until.wait()


def test_who_comes_first_is_served_first_and_no_more_at_once_than_there_are_slots() -> None:
    async def story() -> None:
        places, order, until = AdmissionQueue(2, waiting=4), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(hold(places, name, order, until)) for name in "abcde"]
        await asyncio.sleep(0.01)
        assert (order, places.running, places.waiting) == (["a", "b"], 2, 3)
        until.set()
        await asyncio.gather(*tasks)
        assert order == list("abcde")
        assert (places.running, places.waiting) == (0, 0)

    asyncio.run(story())


def test_one_more_than_may_wait_is_told_when_to_come_back() -> None:
    async def story() -> None:
        places, until = AdmissionQueue(1, waiting=1), asyncio.Event()
        tasks = [asyncio.create_task(hold(places, name, [], until)) for name in "ab"]
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull) as full:
            async with places.place():
                raise AssertionError("there was no place")
        assert full.value.retry_after_s >= 1
        until.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())


def test_who_leaves_the_queue_leaves_no_hole_in_it() -> None:
    async def story() -> None:
        places, order, until = AdmissionQueue(1, waiting=4), list[str](), asyncio.Event()
        tasks = {name: asyncio.create_task(hold(places, name, order, until)) for name in "abc"}
        await asyncio.sleep(0.01)
        tasks["b"].cancel()
        await asyncio.sleep(0.01)
        assert places.waiting == 1
        until.set()
        await asyncio.gather(tasks["a"], tasks["c"])
        assert order == ["a", "c"]
        assert places.running == 0

    asyncio.run(story())


def test_who_leaves_just_as_the_turn_comes_hands_the_place_on() -> None:
    async def story() -> None:
        places, order, until = AdmissionQueue(1, waiting=4), list[str](), asyncio.Event()
        first = asyncio.create_task(hold(places, "a", order, until))
        second = asyncio.create_task(hold(places, "b", order, until))
        third = asyncio.create_task(hold(places, "c", order, until))
        await asyncio.sleep(0.01)
        until.set()
        await first  # b has its turn now, and has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.wait_for(third, 1)
        assert (order[-1], places.running) == ("c", 0)

    asyncio.run(story())


def test_everyone_who_waits_can_be_sent_away_with_a_reason() -> None:
    async def story() -> None:
        places, until = AdmissionQueue(1, waiting=4), asyncio.Event()
        tasks = [asyncio.create_task(hold(places, name, [], until)) for name in "abc"]
        await asyncio.sleep(0.01)
        places.turn_away("the engine died")
        gone = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert [str(one) for one in gone if isinstance(one, TurnedAway)] == ["the engine died"] * 2
        until.set()
        await tasks[0]
        assert (places.running, places.waiting) == (0, 0)

    asyncio.run(story())
