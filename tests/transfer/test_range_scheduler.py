"""The scheduler picks the next span, and tracks the frontier."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from paddock.transfer.range_scheduler import ConnectionShare, RangeScheduler, Span
from tests.support.clock import FakeClock


def make_scheduler(
    size: int = 100, *, written_to: int = 0, workers: int = 4, clock: Callable[[], float] = time.monotonic
) -> RangeScheduler:
    return RangeScheduler(0, size, written_to=written_to, span_bytes=10, window_bytes=30, workers=workers, clock=clock)


def acquire(scheduler: RangeScheduler) -> Span:
    span = scheduler.acquire()
    assert span is not None
    return span


def complete(scheduler: RangeScheduler, span: Span) -> None:
    scheduler.advance(span, span.end - span.written_to)
    scheduler.release(span)


def test_the_frontier_waits_for_the_gap() -> None:
    scheduler = make_scheduler()
    first, second = acquire(scheduler), acquire(scheduler)
    complete(scheduler, second)
    assert scheduler.frontier(0, timeout_s=0) == 0
    scheduler.advance(first, 4)
    assert scheduler.frontier(0, timeout_s=0) == 4
    complete(scheduler, first)
    assert scheduler.frontier(4, timeout_s=0) == 20


def test_no_span_starts_beyond_the_window_of_the_reader() -> None:
    scheduler = make_scheduler()
    spans = [acquire(scheduler) for _ in range(3)]
    assert [span.start for span in spans] == [0, 10, 20]
    acquired = threading.Event()
    more: list[Span | None] = []

    def wait() -> None:
        more.append(scheduler.acquire())
        acquired.set()

    thread = threading.Thread(target=wait)
    thread.start()
    complete(scheduler, spans[0])
    assert not acquired.wait(0.05)
    scheduler.frontier(10, timeout_s=0)
    assert acquired.wait(5)
    thread.join()
    assert [span.start for span in more if span] == [30]


def test_an_incomplete_span_is_acquired_first() -> None:
    scheduler = make_scheduler()
    first, _ = acquire(scheduler), acquire(scheduler)
    scheduler.advance(first, 3)
    scheduler.release(first)
    again = acquire(scheduler)
    assert (again.written_to, again.end) == (3, 10)


def test_written_bytes_are_skipped_and_fetched_again_if_invalidated() -> None:
    scheduler = make_scheduler(written_to=60)
    assert acquire(scheduler).start == 60
    assert scheduler.frontier(0, timeout_s=0) == 60
    scheduler.frontier(20, timeout_s=0)
    scheduler.invalidate(15, 20)
    assert scheduler.frontier(15, timeout_s=0) == 15
    hole = acquire(scheduler)
    assert (hole.start, hole.end) == (15, 20)
    complete(scheduler, hole)
    assert scheduler.frontier(15, timeout_s=0) == 60


def test_written_pieces_are_skipped_and_the_gaps_before_them_are_fetched_first() -> None:
    scheduler = RangeScheduler(
        0, 100, written_to=10, span_bytes=10, window_bytes=80, workers=9, pieces=[(25, 30), (40, 55)]
    )
    assert scheduler.written_bytes == 10 + 5 + 15
    spans = [acquire(scheduler) for _ in range(4)]
    assert [(span.start, span.end) for span in spans] == [(10, 20), (20, 25), (30, 40), (55, 65)]
    for span in spans[:3]:
        complete(scheduler, span)
    assert scheduler.frontier(10, timeout_s=0) == 55
    assert scheduler.written_bytes == 55


def test_a_long_invalidated_range_is_fetched_in_spans() -> None:
    scheduler = make_scheduler(written_to=60)
    scheduler.invalidate(5, 30)
    assert [(span.start, span.end) for span in (acquire(scheduler), acquire(scheduler), acquire(scheduler))] == [
        (5, 15),
        (15, 25),
        (25, 30),
    ]
    assert acquire(scheduler).start == 60


def test_a_whole_body_is_one_span_from_the_first_gap_to_the_end() -> None:
    scheduler = make_scheduler()
    first, second, third = acquire(scheduler), acquire(scheduler), acquire(scheduler)
    complete(scheduler, first)
    scheduler.advance(second, 5)
    scheduler.use_whole_body()
    scheduler.release(third)
    scheduler.release(second)
    rest = acquire(scheduler)
    assert (rest.written_to, rest.end, rest.whole) == (15, 100, True)


def test_a_whole_body_that_is_far_ahead_stops_for_an_invalidated_range() -> None:
    scheduler = make_scheduler(200, written_to=40)
    scheduler.use_whole_body()
    body = acquire(scheduler)
    assert (body.written_to, body.end) == (40, 200)
    scheduler.invalidate(10, 20)
    assert not scheduler.advance(body, 100)
    scheduler.release(body)
    again = acquire(scheduler)
    assert (again.written_to, again.end) == (10, 200)


def test_several_calls_to_back_off_at_once_halve_the_requests_once() -> None:
    scheduler = make_scheduler(workers=4)
    spans = [acquire(scheduler) for _ in range(3)]
    scheduler.back_off(0)
    scheduler.back_off(0)
    scheduler.release(spans[0])
    scheduler.release(spans[1])
    assert acquire(scheduler) is spans[0]


def test_after_backing_off_one_more_request_at_a_time_is_allowed() -> None:
    clock = FakeClock()
    scheduler = make_scheduler(workers=4, clock=clock)
    scheduler.back_off(2)
    clock.now_s += 2
    spans = [acquire(scheduler), acquire(scheduler)]
    # Two of four are left. The requested pause does not count as time without a back-off.
    clock.now_s += 5.1
    spans.append(acquire(scheduler))
    clock.now_s += 5.1
    for span in spans:
        complete(scheduler, span)
    scheduler.frontier(30, timeout_s=0)
    assert [acquire(scheduler).start for _ in range(3)] == [30, 40, 50]


def test_an_error_of_a_worker_reaches_the_reader_and_a_stop_reaches_the_workers() -> None:
    scheduler = make_scheduler()
    scheduler.fail(ValueError("first"))
    scheduler.fail(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        scheduler.frontier(0, timeout_s=5)
    scheduler.stop()
    assert scheduler.acquire() is None


def test_concurrent_transfers_share_the_connections_and_fetch_longer_spans() -> None:
    share = ConnectionShare()
    scheduler = RangeScheduler(0, 1000, written_to=0, span_bytes=10, window_bytes=120, workers=8, share=share)
    share.join()
    span = acquire(scheduler)
    assert (span.start, span.end) == (0, 10), "alone it has all of them"
    complete(scheduler, span)
    for _ in range(3):
        share.join()
    spans = [acquire(scheduler), acquire(scheduler)]
    assert [(span.start, span.end) for span in spans] == [(10, 50), (50, 90)]
    acquired: list[Span | None] = []
    third = threading.Thread(target=lambda: acquired.append(scheduler.acquire()))
    third.start()
    third.join(0.1)
    assert third.is_alive(), "a quarter of eight connections is two"
    for _ in range(3):
        share.leave()
    scheduler.frontier(10, timeout_s=0)
    third.join(5)
    assert [(span.start, span.end) for span in acquired if span] == [(90, 100)], "the others' acquired back to it"


def test_however_many_transfers_there_are_each_has_one_connection() -> None:
    share = ConnectionShare()
    for _ in range(50):
        share.join()
    scheduler = RangeScheduler(0, 1000, written_to=0, span_bytes=10, window_bytes=80, workers=8, share=share)
    assert acquire(scheduler).end == 80, "no span is longer than the window"


def test_the_first_request_goes_alone_where_its_time_decides_how_long_the_others_are() -> None:
    scheduler = RangeScheduler(0, 1000, written_to=0, span_bytes=10, window_bytes=40, max_window_bytes=160, workers=4)
    first = acquire(scheduler)
    assert (first.start, first.end) == (0, 10)
    second: list[Span] = []
    thread = threading.Thread(target=lambda: second.append(acquire(scheduler)))
    thread.start()
    thread.join(0.05)
    assert second == [], "it waits for the first response"
    scheduler.responded(0.4)
    thread.join(10)
    third, fourth = acquire(scheduler), acquire(scheduler)
    assert [(span.start, span.end) for span in (*second, third, fourth)] == [(10, 50), (50, 90), (90, 130)]
    for span in (first, *second, third, fourth):
        complete(scheduler, span)
    assert scheduler.frontier(0, timeout_s=0) == 130


def test_a_first_request_that_failed_is_repeated_before_the_others_start() -> None:
    scheduler = RangeScheduler(0, 1000, written_to=0, span_bytes=10, window_bytes=40, max_window_bytes=160, workers=4)
    scheduler.release(acquire(scheduler))
    assert acquire(scheduler).start == 0


def test_written_bytes_behind_a_gap_are_taken_once_and_the_last_first() -> None:
    scheduler = RangeScheduler(0, 100, written_to=0, span_bytes=40, window_bytes=100, workers=3, piece_bytes=8)
    _, second, third = (acquire(scheduler) for _ in range(3))
    scheduler.advance(second, 7)
    assert scheduler.take_unrecorded(100, after=0) is None, "fewer than a piece"
    scheduler.advance(second, 13)
    scheduler.advance(third, 9)
    taken = [scheduler.take_unrecorded(15, after=0) for _ in range(4)]
    assert taken == [(80, 89), (40, 55), None, None], "a piece more of the second is missing"
    assert scheduler.take_unrecorded(15, after=0, all_of_it=True) == (55, 60)
    assert scheduler.take_unrecorded(15, after=0, all_of_it=True) is None
    scheduler.advance(third, third.end - third.written_to)
    assert scheduler.take_unrecorded(100, after=0) == (89, 100), "the end of a span, however short"


def test_a_piece_wakes_the_reader_and_bytes_that_were_there_are_none() -> None:
    scheduler = RangeScheduler(
        0, 100, written_to=10, span_bytes=40, window_bytes=100, workers=3, pieces=[(30, 60)], piece_bytes=8
    )
    assert scheduler.take_unrecorded(100, after=0, all_of_it=True) is None
    first, second = acquire(scheduler), acquire(scheduler)
    assert (first.start, second.start) == (10, 60)
    woken = threading.Thread(target=scheduler.frontier, args=[10], kwargs={"timeout_s": 60})
    woken.start()
    scheduler.advance(second, 7)
    woken.join(0.1)
    assert woken.is_alive()
    scheduler.advance(second, 1)
    woken.join(10)
    assert not woken.is_alive()
    scheduler.stop()


def test_bytes_that_fill_a_gap_are_left_to_the_worker_that_records_them() -> None:
    scheduler = RangeScheduler(
        0, 100, written_to=10, span_bytes=40, window_bytes=100, workers=3, pieces=[(30, 60)], piece_bytes=8
    )
    gap, behind = acquire(scheduler), acquire(scheduler)
    assert (gap.gap, behind.gap) == (True, False)
    complete(scheduler, gap)
    complete(scheduler, behind)
    assert scheduler.take_unrecorded(100, after=0, all_of_it=True) == (60, 100)
    assert scheduler.take_unrecorded(100, after=0, all_of_it=True) is None


def test_bytes_below_a_checkpoint_are_not_taken() -> None:
    scheduler = RangeScheduler(0, 100, written_to=0, span_bytes=40, window_bytes=100, workers=3, piece_bytes=8)
    first = acquire(scheduler)
    scheduler.advance(first, 30)
    assert scheduler.take_unrecorded(100, after=25) is None, "5 bytes are left"
    assert scheduler.take_unrecorded(100, after=25, all_of_it=True) == (25, 30)
    assert scheduler.take_unrecorded(100, after=40, all_of_it=True) is None


def test_without_a_piece_length_nothing_is_taken() -> None:
    scheduler = RangeScheduler(0, 100, written_to=0, span_bytes=40, window_bytes=100, workers=3)
    acquire(scheduler)
    complete(scheduler, acquire(scheduler))
    assert scheduler.take_unrecorded(100, after=0) is None
