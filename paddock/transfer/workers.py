"""Worker threads that fetch the spans of a schedule and write them into a file.

A worker has its own descriptor, so that one which is still in a system call when the transfer ends can write into
nothing else. What a worker cannot settle by another try ends the transfer: the reader gets it from
`Schedule.frontier`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from paddock.errors import TransferInterrupted
from paddock.model.source import Source
from paddock.transfer.answer import RangesIgnored, TryAgain
from paddock.transfer.client import Client
from paddock.transfer.journal import Journal
from paddock.transfer.limiter import Meter, RateLimit, RetryBudget
from paddock.transfer.pieces import PieceWriter
from paddock.transfer.preallocation import disk_error, write_at
from paddock.transfer.range_scheduler import ConnectionShare, RangeScheduler, Span

_STOP_S = 2.0
_LEAST_SPAN_BYTES = 256 * 1024
_SHARE = ConnectionShare()


@dataclass(frozen=True, slots=True)
class TransferContext:
    """What all pumps of one transfer share."""

    source: Source
    connections: int
    segment_bytes: int
    limit_rate_bytes_per_s: int | None
    stall_s: float
    meter: Meter
    patience: RetryBudget
    still_ours: Callable[[], bool]
    asked_span_bytes: int | None = None

    @property
    def span_bytes(self) -> int:
        """Short enough that every connection finds one in the window, and long enough to be worth a request."""
        if self.asked_span_bytes is not None:
            return min(self.asked_span_bytes, self.segment_bytes)
        return max(min(_LEAST_SPAN_BYTES, self.segment_bytes), self.segment_bytes // self.connections)

    @property
    def window_bytes(self) -> int:
        """How far what lands may be ahead of what is hashed."""
        several = self.connections * self.span_bytes if self.asked_span_bytes is not None else self.span_bytes
        return max(self.segment_bytes, several)


class WorkerPool:
    """Fetches the bytes from `start` up to `end` into `path`: at the same offsets, or with `rebased` from offset 0 on.
    `landed` and `pieces` say what is there already, as in `Schedule`. With a `journal`, what lands is noted there.

    A context manager: the workers run inside, on connections of their own, and have stopped when it ends. The one that
    may take longer is still looking up a name or connecting (10 s at most): it finds the end, and does nothing more.
    """

    def __init__(
        self,
        line: TransferContext,
        path: Path,
        start: int,
        end: int,
        *,
        landed: int,
        rebased: bool = False,
        pieces: Sequence[tuple[int, int]] = (),
        journal: Journal | None = None,
    ) -> None:
        self._line = line
        self._path = path
        self._journal = journal
        self._offset = start if rebased else 0
        workers = max(1, min(line.connections, -(-(end - start) // line.span_bytes)))
        self.schedule = RangeScheduler(
            start,
            end,
            landed=landed,
            span_bytes=line.span_bytes,
            window_bytes=line.window_bytes,
            workers=workers,
            share=_SHARE,
            pieces=pieces,
        )
        self._limit = RateLimit(line.limit_rate_bytes_per_s, connections=workers, stopped=self.schedule.stopped)
        self._client = Client(line.source, connections=workers, stall_s=line.stall_s)
        self._threads = [
            threading.Thread(target=self._work, name=f"paddock-fetch-{number}", daemon=True)
            for number in range(workers)
        ]

    def __enter__(self) -> RangeScheduler:
        _SHARE.join()
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.schedule.stop()
            _SHARE.leave()
            raise
        return self.schedule

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.schedule.stop()
        _SHARE.leave()
        self._client.abort()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._client.close()

    def _work(self) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while (span := self.schedule.take()) is not None:
                    self._try(span, fd)
            finally:
                os.close(fd)
        except OSError as error:
            self.schedule.fail(disk_error(error, self._path, self._line.source.expected.size))
        except BaseException as error:  # it is raised again in the thread that called
            self.schedule.fail(error)

    def _try(self, span: Span, fd: int) -> None:
        pause_s = 0.0
        try:
            self._fill(span, fd)
        except RangesIgnored:
            self.schedule.take_whole()
        except TryAgain as failure:
            if not self.schedule.stopped.is_set():
                pause_s = self._line.patience.failed(failure)
                if failure.busy:
                    self.schedule.slow_down(pause_s)
        finally:
            self.schedule.give_back(span)
        self.schedule.stopped.wait(pause_s)

    def _fill(self, span: Span, fd: int) -> None:
        if not self._line.still_ours():
            raise TransferInterrupted(
                f"another process took over {self._line.source.label}, since this one was silent for long",
                cure="try again: what came is kept",
            )
        with self._client.open(span.reached, span.end, whole=span.whole) as body, self._noted(span.reached) as note:
            for came, wanted in body.chunks(self._limit.read_bytes):
                self._line.meter.count(came, len(wanted))
                if self.schedule.stopped.is_set():
                    return
                if wanted:
                    write_at(fd, wanted, span.reached - self._offset)
                    note(wanted)
                    if not self.schedule.landed(span, len(wanted)):
                        return
                self._limit.take(came)

    @contextmanager
    def _noted(self, start: int) -> Iterator[Callable[[bytes], None]]:
        """Note what lands from `start` on as pieces, the last of them however short it is."""
        if self._journal is None:
            yield lambda _: None
            return
        pieces = PieceWriter(self._journal, start)
        try:
            yield pieces.add
        finally:
            pieces.end()
