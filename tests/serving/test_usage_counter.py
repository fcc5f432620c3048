"""What a revision of a server was used for between two reports."""

from __future__ import annotations

import pytest

from paddock.serving.usage import UsageCounter
from paddock.store.usage import Usage
from tests.support.clock import FakeClock


def test_a_revision_counts_one_use_and_its_time_from_when_it_is_served() -> None:
    clock = FakeClock()
    counter = UsageCounter(clock)
    clock.now_s += 50  # while it loads
    assert counter.take() == Usage()
    counter.begin()
    clock.now_s += 30
    counter.add({"prompt_tokens": 5, "completion_tokens": 7})
    counter.add("no object")
    counter.begin()  # it took over again
    assert counter.take() == Usage(2, 5, 7, 1, 30.0)
    clock.now_s += 60
    assert counter.take() == Usage(seconds=60.0)
    assert counter.take() == Usage()


@pytest.mark.parametrize(
    ("begun", "requests", "idle_s", "reported"),
    [(False, 0, 3600, False), (True, 0, 60, False), (True, 0, 600, True), (True, 1, 60, True)],
    ids=["it still loads", "it is idle", "it is idle for long", "it answers"],
)
def test_an_idle_server_is_reported_less_often(begun: bool, requests: int, idle_s: float, reported: bool) -> None:
    clock = FakeClock()
    counter = UsageCounter(clock)
    if begun:
        counter.begin()
        counter.take()
    for _ in range(requests):
        counter.add(None)
    clock.now_s += idle_s
    assert counter.is_worth_a_report == reported
