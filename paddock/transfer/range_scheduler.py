"""Decide which byte range each worker fetches next, and track how far the file is written without a gap.

The file is cut into *spans*, in order, each fetched by one worker at a time. Workers write them in any order; the
*frontier* is the end of the contiguous written bytes, and one reader (the hasher) follows it. A new span starts only
within a window after the reader's position, so that the bytes it reads are still in the page cache.

The transfers of one process share its connections: each of four concurrent transfers has a quarter of them, and spans
that are four times as long, so that together they load the server and this machine no more than one transfer does.

If spans may grow (`RequestSize`), the first request is sent alone: how long it takes decides how long the others are.

Nothing here touches a file or a socket.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paddock.transfer.request_size import RequestSize

_BACK_OFF_EVERY_S = 1.0
_SPEED_UP_EVERY_S = 5.0


@dataclass(slots=True, eq=False)
class Span:
    """The bytes from `start` up to `end` (exclusive), of which those before `written_to` are in the file.

    `gap`: bytes behind it were there at the start, so that its worker records it.
    `recorded_to`: the bytes before it need no record by the reader. `busy`: a worker fetches it. `whole`: it is fetched
    without a range request, by reading the whole body from its start, since the server does not support ranges.
    """

    start: int
    end: int
    written_to: int
    gap: bool = False
    recorded_to: int = field(init=False)
    busy: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        self.recorded_to = self.written_to


class ConnectionShare:
    """Counts the concurrent transfers that share the connections of a process: `transfers`, at least 1."""

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
    def transfers(self) -> int:
        return max(1, self._joined)


class RangeScheduler:
    """Schedules the spans from `start` up to `end` (exclusive) for several workers and one reader.

    The bytes before `written_to` are in the file already, and so are those of the `pieces`: (start, end), in order, not
    overlapping, and behind `written_to`. `invalidate` says which of them turned out to be wrong. The window may grow up
    to `max_window_bytes` where requests are slow; gaps between the pieces are filled at once, however far ahead of the
    reader. The reader is woken for each `piece_bytes` of another span, with which it can do something
    (`take_unrecorded`) while it has nothing to read.
    """

    def __init__(
        self,
        start: int,
        end: int,
        *,
        written_to: int,
        span_bytes: int,
        window_bytes: int,
        max_window_bytes: int = 0,
        workers: int,
        share: ConnectionShare | None = None,
        pieces: Sequence[tuple[int, int]] = (),
        piece_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._end = end
        self._span_bytes = span_bytes
        self._window_bytes = window_bytes
        self._piece_bytes = piece_bytes
        self._size = RequestSize(span_bytes, window_bytes, max_window_bytes=max_window_bytes)
        self._is_first = self._size.can_grow
        self._workers = self._max_workers = workers
        self._share = share or ConnectionShare()
        self._busy = 0
        self._position = start  # the reader's
        self._written_before = written_to
        self._next = written_to  # start of the next new span
        self._spans: deque[Span] = deque([Span(start, written_to, written_to)] if written_to > start else [])
        self._written_bytes = written_to - start
        for piece_start, piece_end in pieces:
            self._spans.extend(self._cut(self._next, piece_start))
            self._spans.append(Span(piece_start, piece_end, piece_end))
            self._written_bytes += piece_end - piece_start
            self._next = piece_end
        self._backed_off_at = self._changed_at = float("-inf")
        self._not_before = 0.0
        self._whole = False
        self._error: BaseException | None = None
        self.stopped = threading.Event()
        lock = threading.Lock()
        self._work_available = threading.Condition(lock)
        self._bytes_written = threading.Condition(lock)

    @property
    def written_bytes(self) -> int:
        """How many bytes are in the file, gaps or not."""
        return self._written_bytes

    def acquire(self) -> Span | None:
        """Wait for the next span to fetch, and mark it busy. None if the transfer is over. For workers."""
        with self._work_available:
            while not self.stopped.is_set():
                now = self._clock()
                pause_s = self._not_before - now
                if self._workers < self._max_workers and now > self._changed_at + _SPEED_UP_EVERY_S and not self._whole:
                    self._workers += 1
                    self._changed_at = now
                    self._work_available.notify()
                span = self._pick() if pause_s <= 0 and self._busy < self._allowed() else None
                if span:
                    span.busy = True
                    self._busy += 1
                    return span
                self._work_available.wait(pause_s if pause_s > 0 else None)
            return None

    def responded(self, request_s: float) -> None:
        """The response to a request began after `request_s`. For workers."""
        with self._work_available:
            connections = max(1, self._max_workers // self._share.transfers)
            self._size.measured(request_s, left_bytes=self._end - self._next, connections=connections)
            if self._is_first:
                self._is_first = False
                self._work_available.notify_all()

    def advance(self, span: Span, count: int) -> bool:
        """`count` more bytes of the span were written. False: release the span, another one has to be fetched first.

        Waits while a whole body is too far ahead of the reader.
        """
        with self._work_available:
            span.written_to += count
            if span.gap:
                span.recorded_to = span.written_to
            self._written_bytes += count
            if span is self._spans[0] or span.written_to == span.end or self._has_piece(span):
                self._bytes_written.notify()
            while (
                self._whole
                and span.written_to > max(self._position, self._written_before) + 2 * self._window_bytes
                and not self.stopped.is_set()
            ):
                # The reader may wait for a span that it invalidated, which only this worker can fetch.
                if any(other.written_to < other.end and other.end <= span.start for other in self._spans):
                    return False
                self._work_available.wait()
            return True

    def release(self, span: Span) -> None:
        """A worker ends its work on a span, complete or not."""
        with self._work_available:
            span.busy = False
            self._busy -= 1
            if self._whole:
                self._work_available.notify_all()
            elif span.written_to < span.end:
                self._work_available.notify()

    def back_off(self, pause_s: float) -> None:
        """Halve the parallel requests, and start none for `pause_s`, since the server is busy. One more at a time is
        allowed again, every 5 s without a further call."""
        with self._work_available:
            now = self._clock()
            self._not_before = max(self._not_before, now + pause_s)
            self._changed_at = max(now, self._not_before)
            if now > self._backed_off_at + _BACK_OFF_EVERY_S:  # eight refusals at once halve only once
                self._backed_off_at = now
                self._workers = max(1, self._workers // 2)

    def use_whole_body(self) -> None:
        """The server does not support ranges: fetch the rest as one body, from the next span on."""
        with self._work_available:
            self._whole = True
            self._workers = 1

    def fail(self, error: BaseException) -> None:
        """End the transfer with an error of a worker, which `frontier` raises in the reader."""
        with self._work_available:
            self._error = self._error or error
            self._bytes_written.notify()

    def stop(self) -> None:
        with self._work_available:
            self.stopped.set()
            self._work_available.notify_all()

    def frontier(self, position: int, *, timeout_s: float) -> int:
        """Wait at most `timeout_s` for bytes at `position`, or for a piece; return the end of the contiguous bytes. For
        the reader."""
        with self._work_available:
            self._position = position
            while self._spans and self._spans[0].end <= position:
                self._spans.popleft()
            if self._whole:
                self._work_available.notify_all()
            elif (available := self._window_end() - self._next) > 0:
                # Wake no more workers than there are spans: the others would only delay these.
                self._work_available.notify(-(-available // self._size.bytes))
            if timeout_s and self._contiguous_end(position) == position and not self._error:
                self._bytes_written.wait(timeout_s)
            if self._error:
                raise self._error
            return self._contiguous_end(position)

    def take_unrecorded(self, max_bytes: int, *, after: int, all_of_it: bool = False) -> tuple[int, int] | None:
        """Start and end (exclusive) of written bytes behind the offset `after` that were not taken before, at most
        `max_bytes`; the last ones first, since the reader comes to them last. None if no span has as much as
        `piece_bytes` of them, nor its end; with `all_of_it`, if there are none. For the reader.
        """
        with self._work_available:
            for span in reversed(self._spans):
                span.recorded_to = max(span.recorded_to, min(after, span.written_to))
                if span.recorded_to < span.written_to and (all_of_it or self._has_piece(span)):
                    start, span.recorded_to = span.recorded_to, min(span.written_to, span.recorded_to + max_bytes)
                    return start, span.recorded_to
            return None

    def invalidate(self, start: int, end: int) -> None:
        """Fetch the bytes from `start` up to `end` again, and set the position to `start`. For the reader."""
        with self._work_available:
            if self._spans and self._spans[0].start < end:
                self._spans[0].start = end
            self._spans.extendleft(reversed(self._cut(start, end)))
            self._written_bytes -= end - start
            self._position = start
            self._work_available.notify_all()

    def _cut(self, start: int, end: int) -> list[Span]:
        cuts = [*range(start, end, self._span_bytes), end]
        return [Span(a, b, a, gap=True) for a, b in itertools.pairwise(cuts)]

    def _pick(self) -> Span | None:
        if self._whole:
            return self._pick_whole()
        for span in self._spans:
            if not span.busy and span.written_to < span.end:
                return span
        if self._next >= self._window_end():
            return None
        length = min(self._size.bytes * self._share.transfers, self._size.window_bytes)
        span = Span(self._next, min(self._end, self._next + length), self._next)
        self._next = span.end
        self._spans.append(span)
        return span

    def _has_piece(self, span: Span) -> bool:
        if self._piece_bytes is None:
            return False
        enough = 1 if span.written_to == span.end else self._piece_bytes
        return span.written_to - span.recorded_to >= enough

    def _allowed(self) -> int:
        if self._is_first:
            return 1
        return max(1, min(self._workers, self._max_workers // self._share.transfers))

    def _window_end(self) -> int:
        return min(self._end, max(self._position, self._written_before) + self._size.window_bytes)

    def _pick_whole(self) -> Span | None:
        """One span from the first missing byte to the end. Bytes that were written behind it are fetched again."""
        for index, span in enumerate(self._spans):
            if span.written_to < span.end:
                if self._busy:
                    return None
                while len(self._spans) > index + 1:
                    dropped = self._spans.pop()
                    self._written_bytes -= dropped.written_to - dropped.start
                span.end = self._next = self._end
                span.whole = True
                return span
        if self._next < self._end and not self._busy:
            span = Span(self._next, self._end, self._next, whole=True)
            self._next = self._end
            self._spans.append(span)
            return span
        return None

    def _contiguous_end(self, position: int) -> int:
        for span in self._spans:
            if span.start > position:
                break
            position = span.written_to
            if span.written_to < span.end:
                break
        return position
