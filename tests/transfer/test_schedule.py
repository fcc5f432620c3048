"""Which span is next, and how far the bytes reach."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from paddock.transfer.range_scheduler import ConnectionShare, RangeScheduler, Span
from tests.support.clock import FakeClock


def schedule(
    size: int = 100, *, landed: int = 0, workers: int = 4, clock: Callable[[], float] = time.monotonic
) -> RangeScheduler:
    return RangeScheduler(0, size, landed=landed, span_bytes=10, window_bytes=30, workers=workers, clock=clock)


def take(plan: RangeScheduler) -> Span:
    span = plan.take()
    assert span is not None
    return span


def land(plan: RangeScheduler, span: Span) -> None:
    plan.landed(span, span.end - span.reached)
    plan.give_back(span)


def test_the_frontier_waits_for_the_gap() -> None:
    plan = schedule()
    first, second = take(plan), take(plan)
    land(plan, second)
    assert plan.frontier(0, timeout_s=0) == 0
    plan.landed(first, 4)
    assert plan.frontier(0, timeout_s=0) == 4
    land(plan, first)
    assert plan.frontier(4, timeout_s=0) == 20


def test_no_span_starts_beyond_the_window_of_the_reader() -> None:
    plan = schedule()
    spans = [take(plan) for _ in range(3)]
    assert [span.start for span in spans] == [0, 10, 20]
    came = threading.Event()
    more: list[Span | None] = []

    def wait() -> None:
        more.append(plan.take())
        came.set()

    thread = threading.Thread(target=wait)
    thread.start()
    land(plan, spans[0])
    assert not came.wait(0.05)
    plan.frontier(10, timeout_s=0)
    assert came.wait(5)
    thread.join()
    assert [span.start for span in more if span] == [30]


def test_what_a_try_left_is_taken_first() -> None:
    plan = schedule()
    first, _ = take(plan), take(plan)
    plan.landed(first, 3)
    plan.give_back(first)
    again = take(plan)
    assert (again.reached, again.end) == (3, 10)


def test_bytes_that_were_there_are_passed_over_and_fetched_again_when_they_are_wrong() -> None:
    plan = schedule(landed=60)
    assert take(plan).start == 60
    assert plan.frontier(0, timeout_s=0) == 60
    plan.frontier(20, timeout_s=0)
    plan.fetch_again(15, 20)
    assert plan.frontier(15, timeout_s=0) == 15
    hole = take(plan)
    assert (hole.start, hole.end) == (15, 20)
    land(plan, hole)
    assert plan.frontier(15, timeout_s=0) == 60


def test_pieces_that_are_there_are_passed_over_and_the_gaps_before_them_are_fetched_first() -> None:
    plan = RangeScheduler(0, 100, landed=10, span_bytes=10, window_bytes=80, workers=9, pieces=[(25, 30), (40, 55)])
    assert plan.landed_bytes == 10 + 5 + 15
    spans = [take(plan) for _ in range(4)]
    assert [(span.start, span.end) for span in spans] == [(10, 20), (20, 25), (30, 40), (55, 65)]
    for span in spans[:3]:
        land(plan, span)
    assert plan.frontier(10, timeout_s=0) == 55
    assert plan.landed_bytes == 55


def test_a_long_stretch_that_is_wrong_is_fetched_in_spans() -> None:
    plan = schedule(landed=60)
    plan.fetch_again(5, 30)
    assert [(span.start, span.end) for span in (take(plan), take(plan), take(plan))] == [(5, 15), (15, 25), (25, 30)]
    assert take(plan).start == 60


def test_a_whole_body_is_one_span_from_the_first_gap_to_the_end() -> None:
    plan = schedule()
    first, second, third = take(plan), take(plan), take(plan)
    land(plan, first)
    plan.landed(second, 5)
    plan.take_whole()
    plan.give_back(third)
    plan.give_back(second)
    rest = take(plan)
    assert (rest.reached, rest.end, rest.whole) == (15, 100, True)


def test_a_whole_body_that_is_far_ahead_makes_way_for_what_is_wrong() -> None:
    plan = schedule(200, landed=40)
    plan.take_whole()
    body = take(plan)
    assert (body.reached, body.end) == (40, 200)
    plan.fetch_again(10, 20)
    assert not plan.landed(body, 100)
    plan.give_back(body)
    again = take(plan)
    assert (again.reached, again.end) == (10, 200)


def test_one_wish_for_fewer_requests_halves_them_once() -> None:
    plan = schedule(workers=4)
    spans = [take(plan) for _ in range(3)]
    plan.slow_down(0)
    plan.slow_down(0)
    plan.give_back(spans[0])
    plan.give_back(spans[1])
    assert take(plan) is spans[0]


def test_a_server_that_is_content_gets_one_more_request_at_a_time() -> None:
    clock = FakeClock()
    plan = schedule(workers=4, clock=clock)
    plan.slow_down(2)
    clock.now_s += 2
    spans = [take(plan), take(plan)]
    # Of four two are left. The pause that was asked for does not count as content.
    clock.now_s += 5.1
    spans.append(take(plan))
    clock.now_s += 5.1
    for span in spans:
        land(plan, span)
    plan.frontier(30, timeout_s=0)
    assert [take(plan).start for _ in range(3)] == [30, 40, 50]


def test_an_error_of_a_worker_reaches_the_reader_and_a_stop_reaches_the_workers() -> None:
    plan = schedule()
    plan.fail(ValueError("first"))
    plan.fail(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        plan.frontier(0, timeout_s=5)
    plan.stop()
    assert plan.take() is None


def test_transfers_beside_each_other_share_the_connections_of_one_and_fetch_longer_spans() -> None:
    share = ConnectionShare()
    plan = RangeScheduler(0, 1000, landed=0, span_bytes=10, window_bytes=120, workers=8, share=share)
    share.join()
    span = take(plan)
    assert (span.start, span.end) == (0, 10), "alone it has all of them"
    land(plan, span)
    for _ in range(3):
        share.join()
    spans = [take(plan), take(plan)]
    assert [(span.start, span.end) for span in spans] == [(10, 50), (50, 90)]
    came: list[Span | None] = []
    third = threading.Thread(target=lambda: came.append(plan.take()))
    third.start()
    third.join(0.1)
    assert third.is_alive(), "a quarter of eight connections is two"
    for _ in range(3):
        share.leave()
    plan.frontier(10, timeout_s=0)
    third.join(5)
    assert [(span.start, span.end) for span in came if span] == [(90, 100)], "the others' came back to it"


def test_however_many_transfers_there_are_each_has_one_connection() -> None:
    share = ConnectionShare()
    for _ in range(50):
        share.join()
    plan = RangeScheduler(0, 1000, landed=0, span_bytes=10, window_bytes=80, workers=8, share=share)
    assert take(plan).end == 80, "no span is longer than the window"
