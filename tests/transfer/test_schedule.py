"""Which span is next, and how far the bytes reach."""

from __future__ import annotations

import threading
import time

import pytest

from paddock.transfer.schedule import Schedule, Span


def schedule(size: int = 100, *, landed: int = 0, workers: int = 4) -> Schedule:
    return Schedule(0, size, landed=landed, span_bytes=10, window_bytes=30, workers=workers)


def take(plan: Schedule) -> Span:
    span = plan.take()
    assert span is not None
    return span


def land(plan: Schedule, span: Span) -> None:
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
    assert (rest.reached, rest.end) == (15, 100)


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


def test_a_server_that_is_content_gets_one_more_request_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    plan = schedule(workers=4)
    plan.slow_down(2)
    now += 2
    spans = [take(plan), take(plan)]
    # Of four two are left. The pause that was asked for does not count as content.
    now += 5.1
    spans.append(take(plan))
    now += 5.1
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


def test_a_reader_that_cannot_keep_up_gets_longer_spans_over_fewer_connections() -> None:
    plan = Schedule(0, 10_000, landed=0, span_bytes=10, window_bytes=160, workers=16)
    for span in [take(plan) for _ in range(16)]:
        land(plan, span)
    plan.frontier(60, timeout_s=0)
    spans = [take(plan), take(plan)]
    assert [(span.start, span.end) for span in spans] == [(160, 200), (200, 240)], "a quarter of the window at most"
    plan.frontier(135, timeout_s=0)
    span = take(plan)
    assert (span.start, span.end) == (240, 260), "as much as waits for the reader, in whole spans"
    plan.frontier(160, timeout_s=0)
    span = take(plan)
    assert (span.start, span.end) == (260, 270), "it has caught up"


def test_what_an_earlier_process_left_makes_no_span_longer() -> None:
    plan = Schedule(0, 10_000, landed=1000, span_bytes=10, window_bytes=160, workers=16)
    plan.frontier(0, timeout_s=0)
    span = take(plan)
    assert (span.start, span.end) == (1000, 1010)
