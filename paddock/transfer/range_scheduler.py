"""Which bytes are fetched next, and how far they have landed without a gap.

The file is cut into *spans*, in order, each fetched by one worker at a time. Workers write them in any order; the
*frontier* is the end of the bytes that are there without a gap, and one reader (the hasher) follows it. A span starts
only within a window of the reader's position: so what the reader reads is still in the page cache.

The transfers of a process share its connections: of four that run at once each has a quarter, and spans that are four
times as long, so that together they ask the server, and this machine, for no more than one does.

Nothing here touches a file or a socket.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SLOW_DOWN_EVERY_S = 1.0
_SPEED_UP_EVERY_S = 5.0


@dataclass(slots=True, eq=False)
class Span:
    """The bytes from `start` up to `end`, of which those before `reached` have landed.

    `whole`: they come as part of the whole body, read from its start, since the server knows no ranges.
    """

    start: int
    end: int
    reached: int
    busy: bool = False
    whole: bool = False


class ConnectionShare:
    """How many transfers run beside each other: `running`, at least 1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._joined = 0

    def join(self) -> None:
        with self._lock:
            self._joined += 1

    def leave(self) -> None:
        with self._lock:
            self._joined -= 1

    @property
    def running(self) -> int:
        return max(1, self._joined)


class RangeScheduler:
    """The spans from `start` up to `end`. Bytes before `landed` are there, until `fetch_again` says they are wrong, and
    so are those of the `pieces`: (start, end), in order, apart from each other and behind `landed`."""

    def __init__(
        self,
        start: int,
        end: int,
        *,
        landed: int,
        span_bytes: int,
        window_bytes: int,
        workers: int,
        share: ConnectionShare | None = None,
        pieces: Sequence[tuple[int, int]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._end = end
        self._span_bytes = span_bytes
        self._window_bytes = window_bytes
        self._workers = self._most_workers = workers
        self._share = share or ConnectionShare()
        self._busy = 0
        self._position = start  # the reader's
        self._claimed = landed
        self._next = landed  # where the next new span starts
        self._spans: deque[Span] = deque([Span(start, landed, landed)] if landed > start else [])
        self._landed_bytes = landed - start
        for piece_start, piece_end in pieces:
            self._spans.extend(self._cut(self._next, piece_start))
            self._spans.append(Span(piece_start, piece_end, piece_end))
            self._landed_bytes += piece_end - piece_start
            self._next = piece_end
        self._slowed = self._changed = float("-inf")
        self._not_before = 0.0
        self._whole = False
        self._error: BaseException | None = None
        self.stopped = threading.Event()
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._landed = threading.Condition(lock)

    @property
    def landed_bytes(self) -> int:
        """How many bytes are in the file, with gaps between them or without."""
        return self._landed_bytes

    def take(self) -> Span | None:
        """For workers: the next span to fetch, when there is one. None when the transfer is over."""
        with self._work:
            while not self.stopped.is_set():
                now = self._clock()
                pause_s = self._not_before - now
                if self._workers < self._most_workers and now > self._changed + _SPEED_UP_EVERY_S and not self._whole:
                    self._workers += 1
                    self._changed = now
                    self._work.notify()
                span = self._pick() if pause_s <= 0 and self._busy < self._allowed() else None
                if span:
                    span.busy = True
                    self._busy += 1
                    return span
                self._work.wait(pause_s if pause_s > 0 else None)
            return None

    def landed(self, span: Span, count: int) -> bool:
        """`count` more bytes of the span are in the file. False: give the span back, another one comes first now.

        Waits when a whole body runs too far ahead of the reader.
        """
        with self._work:
            span.reached += count
            self._landed_bytes += count
            if span is self._spans[0] or span.reached == span.end:
                self._landed.notify()
            while (
                self._whole
                and span.reached > max(self._position, self._claimed) + 2 * self._window_bytes
                and not self.stopped.is_set()
            ):
                # The reader may be waiting for what it found to be wrong, which only this worker can fetch.
                if any(one.reached < one.end and one.end <= span.start for one in self._spans):
                    return False
                self._work.wait()
            return True

    def give_back(self, span: Span) -> None:
        """A worker is done with a span, whole or not."""
        with self._work:
            span.busy = False
            self._busy -= 1
            if self._whole:
                self._work.notify_all()
            elif span.reached < span.end:
                self._work.notify()

    def slow_down(self, pause_s: float) -> None:
        """The server wants fewer requests at once, and none for so long. While it is content, one more comes back at a
        time."""
        with self._work:
            now = self._clock()
            self._not_before = max(self._not_before, now + pause_s)
            self._changed = max(now, self._not_before)
            if now > self._slowed + _SLOW_DOWN_EVERY_S:  # eight refusals at once are one wish
                self._slowed = now
                self._workers = max(1, self._workers // 2)

    def take_whole(self) -> None:
        """The server knows no ranges: from the next span on the rest comes as one body."""
        with self._work:
            self._whole = True
            self._workers = 1

    def fail(self, error: BaseException) -> None:
        """A worker met what ends the transfer. The reader gets it from `frontier`."""
        with self._work:
            self._error = self._error or error
            self._landed.notify()

    def stop(self) -> None:
        with self._work:
            self.stopped.set()
            self._work.notify_all()

    def frontier(self, position: int, *, timeout_s: float) -> int:
        """For the reader, which is at `position`: how far the bytes reach from there, after at most `timeout_s`."""
        with self._work:
            self._position = position
            while self._spans and self._spans[0].end <= position:
                self._spans.popleft()
            if self._whole:
                self._work.notify_all()
            elif (room := self._window_end() - self._next) > 0:
                self._work.notify(-(-room // self._span_bytes))  # each that wakes in vain holds the others up
            if self._reach(position) == position and not self._error:
                self._landed.wait(timeout_s)
            if self._error:
                raise self._error
            return self._reach(position)

    def fetch_again(self, start: int, end: int) -> None:
        """What was there from `start` up to `end` is wrong. For the reader, whose position is `start` from now on."""
        with self._work:
            if self._spans and self._spans[0].start < end:
                self._spans[0].start = end
            self._spans.extendleft(reversed(self._cut(start, end)))
            self._landed_bytes -= end - start
            self._position = start
            self._work.notify_all()

    def _cut(self, start: int, end: int) -> list[Span]:
        cuts = [*range(start, end, self._span_bytes), end]
        return [Span(a, b, a) for a, b in itertools.pairwise(cuts)]

    def _pick(self) -> Span | None:
        if self._whole:
            return self._pick_whole()
        for span in self._spans:
            if not span.busy and span.reached < span.end:
                return span
        if self._next >= self._window_end():
            return None
        length = min(self._span_bytes * self._share.running, self._window_bytes)
        span = Span(self._next, min(self._end, self._next + length), self._next)
        self._next = span.end
        self._spans.append(span)
        return span

    def _allowed(self) -> int:
        return max(1, min(self._workers, self._most_workers // self._share.running))

    def _window_end(self) -> int:
        return min(self._end, max(self._position, self._claimed) + self._window_bytes)

    def _pick_whole(self) -> Span | None:
        """One span from the first byte that is missing to the end. What landed behind it is fetched again, once."""
        for index, span in enumerate(self._spans):
            if span.reached < span.end:
                if self._busy:
                    return None
                while len(self._spans) > index + 1:
                    dropped = self._spans.pop()
                    self._landed_bytes -= dropped.reached - dropped.start
                span.end = self._next = self._end
                span.whole = True
                return span
        if self._next < self._end and not self._busy:
            span = Span(self._next, self._end, self._next, whole=True)
            self._next = self._end
            self._spans.append(span)
            return span
        return None

    def _reach(self, position: int) -> int:
        for span in self._spans:
            if span.start > position:
                break
            position = span.reached
            if span.reached < span.end:
                break
        return position
