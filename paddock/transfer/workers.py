"""Fetch the spans of a scheduler in parallel worker threads, and write them into a file.

Each worker has a file descriptor of its own, so that one that is still in a system call when the transfer ends cannot
write into another file. An error that a retry cannot solve ends the transfer: the reader gets it from
`RangeScheduler.frontier`.
"""

from __future__ import annotations

import mmap
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
from paddock.transfer.client import RangeClient
from paddock.transfer.journal import Journal
from paddock.transfer.meter import Meter
from paddock.transfer.pieces import PIECE_BYTES, PieceRecorder
from paddock.transfer.preallocation import disk_error, write_at
from paddock.transfer.range_scheduler import ConnectionShare, RangeScheduler, Span
from paddock.transfer.rate_limit import RateLimit
from paddock.transfer.response import RangesNotSupported, RetryableResponseError
from paddock.transfer.retry_budget import RetryBudget

_STOP_S = 2.0
_MIN_SPAN_BYTES = 256 * 1024
_MAX_WINDOW_SEGMENTS = 4
_SHARE = ConnectionShare()


@dataclass(frozen=True, slots=True)
class TransferContext:
    """Shared context of all worker pools of one transfer.

    `is_owned` tells whether the staging directory is still this process's. `requested_span_bytes` overrides the length
    of one request; None derives it from the segment and the connections.
    """

    source: Source
    connections: int
    segment_bytes: int
    limit_rate_bytes_per_s: int | None
    stall_s: float
    meter: Meter
    retry_budget: RetryBudget
    is_owned: Callable[[], bool]
    requested_span_bytes: int | None = None

    @property
    def span_bytes(self) -> int:
        """Length of one request: short enough for one span in the window for each connection, and 256 KiB at least."""
        if self.requested_span_bytes is not None:
            return min(self.requested_span_bytes, self.segment_bytes)
        return max(min(_MIN_SPAN_BYTES, self.segment_bytes), self.segment_bytes // self.connections)

    @property
    def window_bytes(self) -> int:
        """How far the written bytes may be ahead of the hashed ones."""
        spans = self.connections if self.requested_span_bytes is not None else 1
        return max(self.segment_bytes, spans * self.span_bytes)


class WorkerPool:
    """Threads that fetch the bytes from `start` up to `end` (exclusive) into `path`: at the same offsets, or with
    `rebased` from offset 0 on.

    `written_to` and `pieces` say what the file holds already, as in `RangeScheduler`. With a `journal`, what fills a
    gap between them is recorded there; of the rest, the reader is told for each piece.

    A context manager: the workers run inside of it, on connections of their own, and have stopped at its end. One that
    still resolves a name or connects (10 s at most) may take longer; it notices the end, and does nothing more.
    """

    def __init__(
        self,
        context: TransferContext,
        path: Path,
        start: int,
        end: int,
        *,
        written_to: int,
        rebased: bool = False,
        pieces: Sequence[tuple[int, int]] = (),
        journal: Journal | None = None,
    ) -> None:
        self._context = context
        self._path = path
        self._journal = journal
        self._offset = start if rebased else 0
        workers = max(1, min(context.connections, -(-(end - start) // context.span_bytes)))
        self.scheduler = RangeScheduler(
            start,
            end,
            written_to=written_to,
            span_bytes=context.span_bytes,
            window_bytes=context.window_bytes,
            max_window_bytes=_MAX_WINDOW_SEGMENTS * context.segment_bytes,
            workers=workers,
            share=_SHARE,
            pieces=pieces,
            piece_bytes=None if journal is None else PIECE_BYTES,
        )
        self._limit = RateLimit(context.limit_rate_bytes_per_s, connections=workers, stopped=self.scheduler.stopped)
        self._client = RangeClient(context.source, connections=workers, stall_s=context.stall_s)
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
            self.scheduler.stop()
            _SHARE.leave()
            raise
        return self.scheduler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.scheduler.stop()
        _SHARE.leave()
        self._client.abort()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._client.close()

    def _work(self) -> None:
        try:
            memory = memoryview(mmap.mmap(-1, self._limit.read_bytes))
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while (span := self.scheduler.acquire()) is not None:
                    self._attempt(span, fd, memory)
            finally:
                os.close(fd)
        except OSError as error:
            self.scheduler.fail(disk_error(error, self._path, self._context.source.expected.size))
        except BaseException as error:  # raised again in the reader's thread
            self.scheduler.fail(error)

    def _attempt(self, span: Span, fd: int, memory: memoryview) -> None:
        pause_s = 0.0
        try:
            self._fetch(span, fd, memory)
        except RangesNotSupported:
            self.scheduler.use_whole_body()
        except RetryableResponseError as failure:
            if not self.scheduler.stopped.is_set():
                pause_s = self._context.retry_budget.spend(failure)
                if failure.busy:
                    self.scheduler.back_off(pause_s)
        finally:
            self.scheduler.release(span)
        self.scheduler.stopped.wait(pause_s)

    def _fetch(self, span: Span, fd: int, memory: memoryview) -> None:
        if not self._context.is_owned():
            raise TransferInterrupted(
                f"another process took over {self._context.source.label}, since this one wrote nothing for too long",
                cure="try again: the received bytes are kept",
            )
        position, began = span.written_to, time.monotonic()
        with self._client.open(position, span.end, whole=span.whole) as body, self._recorder(span) as record:
            self.scheduler.responded(time.monotonic() - began)
            for received, requested in body.chunks_in(memory):
                self._context.meter.count(received, len(requested))
                if self.scheduler.stopped.is_set():
                    return
                if requested:
                    write_at(fd, requested, span.written_to - self._offset)
                    record(requested)
                    if not self.scheduler.advance(span, len(requested)):
                        return
                self._limit.consume(received)

    @contextmanager
    def _recorder(self, span: Span) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Record what is written of a gap as pieces, the last one however short it is. The reader may be far behind it,
        and busy with bytes that were here."""
        if self._journal is None or not span.gap:
            yield lambda _: None
            return
        recorder = PieceRecorder(self._journal, span.written_to)
        try:
            yield recorder.add
        finally:
            recorder.flush()
