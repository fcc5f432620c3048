"""Assemble one file in its staging directory: hash the bytes as they are written, keep the journal, and repair.

All of it but the hashing runs in the calling thread. The bytes are read back from the page cache, where the workers, or
another backend, have just written them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from paddock.errors import CorruptFile, TransferInterrupted
from paddock.model.names import SegmentDigest
from paddock.model.source import Source
from paddock.transfer import backends
from paddock.transfer.backends import Backend
from paddock.transfer.digest import (
    BLOCK_BYTES,
    BlockThreads,
    OnBlock,
    RunningDigest,
    block_buffer,
    digest_file,
    digest_for,
    segment_spans,
)
from paddock.transfer.meter import Meter
from paddock.transfer.options import Options
from paddock.transfer.pieces import read_piece, verified_pieces
from paddock.transfer.preallocation import UNDER_UMASK, disk_error, preallocate, require_space, write_at
from paddock.transfer.progress import OnProgress, Progress, VerificationSpeed
from paddock.transfer.range_scheduler import RangeScheduler
from paddock.transfer.retry_budget import RetryBudget
from paddock.transfer.staging import StagingDirectory
from paddock.transfer.workers import TransferContext, WorkerPool
from paddock.transfer.writeback import WriteBack

_POLL_S = 0.1
_PROGRESS_EVERY_S = 0.25
_HEARTBEAT_EVERY_S = 2.0
_REPAIR_ROUNDS = 2


class Assembler:
    """One download into one staging directory."""

    def __init__(
        self,
        source: Source,
        staging: StagingDirectory,
        options: Options,
        *,
        cancel: threading.Event,
        on_progress: OnProgress | None,
        on_block: OnBlock | None,
    ) -> None:
        self._source = source
        self._expected = source.expected
        self._staging = staging
        self._options = options
        self._cancel = cancel
        self._on_progress = on_progress
        self._on_block = on_block
        self._buffer = block_buffer()
        self._reported_at = self._heartbeat_at = float("-inf")
        self._heartbeat_position = self._done = self._checkpoint = 0
        self._verification = VerificationSpeed()
        self.resumed_bytes = 0
        self.meter = Meter()
        self._context = TransferContext(
            source=source,
            connections=options.connections,
            segment_bytes=options.segment_bytes,
            limit_rate_bytes_per_s=options.limit_rate_bytes_per_s,
            stall_s=options.stall_s,
            meter=self.meter,
            retry_budget=RetryBudget(source.label, self.meter, cure="try again later: the received bytes are kept"),
            is_owned=lambda: staging.is_owned,
            requested_span_bytes=options.span_bytes,
        )

    def run(self) -> RunningDigest:
        """Download, verify and fsync the file; return its digests.

        Raises CorruptFile, NotEnoughDisk, TransferInterrupted, TransferRefused, OSError, and the permanent errors of
        the source.
        """
        backends.clean(self._staging.data)  # files of a process that was killed
        written_to = self._staging.checkpoint_bytes
        limited = self._options.limit_rate_bytes_per_s is not None
        # Another backend cannot resume: Paddock's own does.
        backend: Backend = "paddock"
        if not self._staging.resumable_bytes:
            backend = backends.select_backend(self._options.backend, self._source, limited=limited)
        if backend != "paddock":
            self._download_with(backend)
            written_to = self._expected.size
        with self._open_data() as fd, WriteBack(fd) as write_back:
            preallocate(fd, self._staging.data, self._expected.size)
            digest = self._receive(fd, write_back, written_to=written_to)
            if digest.mismatch(self._expected):
                digest = self._repair(fd, digest)
            self._fsync(fd)
        self._report(digest.size)
        return digest

    def _fsync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            # The kernel may now mark pages as clean that were never written, and hashing them again would prove
            # nothing: https://wiki.postgresql.org/wiki/Fsync_Errors
            self._staging.discard()
            raise disk_error(error, self._staging.data, self._expected.size, kept=False) from error

    def _download_with(self, backend: Backend) -> None:
        """Download the whole file with another backend. None of its bytes is verified here."""
        with self._open_data() as fd:
            # huggingface_hub writes a file of its own, and renames it to this path.
            reserve = require_space if backend == "xet" else preallocate
            reserve(fd, self._staging.data, self._expected.size)

        last = peak = 0

        def on_received(received: int) -> None:
            nonlocal last, peak
            received = min(received, self._expected.size)  # huggingface_hub also writes files of its own
            # A second attempt starts at 0 again, but the bytes of the first one were transferred, too.
            self.meter.count(max(0, received - last), max(0, received - peak))
            last, peak = received, max(peak, received)
            self._check_cancelled(cure="start it again")
            self._tick(received, done_bytes=received, verify_s=self._verification.left_s(self._expected.size))

        received = backends.download(
            backend,
            self._source,
            self._staging.data,
            connections=self._options.connections,
            stall_s=self._options.stall_s,
            on_received=on_received,
        )
        on_received(max(received, self._expected.size))

    @contextmanager
    def _open_data(self) -> Iterator[int]:
        fd = os.open(self._staging.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, UNDER_UMASK)
        try:
            yield fd
        finally:
            os.close(fd)

    def _receive(self, fd: int, write_back: WriteBack, *, written_to: int) -> RunningDigest:
        """Fetch what is missing, and hash the file in order while it is written.

        The first `written_to` bytes are in the file: they are compared with the checkpoints of the journal. Checkpoints
        are added for the other bytes.
        """
        digest = digest_for(self._expected, segment_bytes=self._options.segment_bytes)
        checkpoints = self._staging.checkpoints
        ends = sorted(checkpoints)
        good = digest.copy()
        pieces = self._verified_pieces(fd, after=written_to)
        self.resumed_bytes = self._staging.checkpoint_bytes + sum(end - start for start, end in pieces)
        pool = WorkerPool(
            self._context,
            self._staging.data,
            0,
            digest.size,
            written_to=written_to,
            pieces=pieces,
            journal=self._staging.journal,
        )
        threads = BlockThreads(fd, self._on_block)
        with self._recording_at_the_end(fd, pool.scheduler), pool as scheduler, threads:
            while digest.position < digest.size:
                target = ends[0] if ends else self._next_checkpoint(digest.position)
                self._hash(
                    scheduler, fd, digest, threads, until=target, report=self._report_receiving, read_ahead=not ends
                )
                if ends:
                    ends.pop(0)
                    if not ends:  # until now the connections waited for the reader
                        self.meter.restart()
                expected = checkpoints.pop(target, None)
                if expected is None:
                    self._staging.journal.add_checkpoint(target, digest.segment_prefix)
                elif expected != digest.segment_prefix:
                    # Later checkpoints of the segment cover the same bytes: all of it is fetched again, in parallel.
                    segment_end = -(-target // digest.segment_bytes) * digest.segment_bytes
                    bad_end = max([target, *(end for end in ends if end <= segment_end)])
                    scheduler.invalidate(good.position, bad_end)
                    self.resumed_bytes -= bad_end - good.position
                    ends = [bad_end, *(end for end in ends if end > bad_end)]
                    checkpoints = {end: proof for end, proof in checkpoints.items() if end > bad_end}
                    digest = good
                good, self._checkpoint = digest.copy(), digest.position
                if digest.position % digest.segment_bytes == 0:
                    write_back.notify()
        return digest

    def _verified_pieces(self, fd: int, *, after: int) -> list[tuple[int, int]]:
        """The pieces of the file behind the last checkpoint, as (start, end)."""
        pieces = [piece for piece in self._staging.pieces if piece.end > after]
        return verified_pieces(fd, pieces, after=after, buffer=self._buffer, check_cancelled=self._check_cancelled)

    def _next_checkpoint(self, position: int) -> int:
        """End of the next checkpoint: one span further, or at the end of the segment."""
        segment_end = (position // self._options.segment_bytes + 1) * self._options.segment_bytes
        return min(self._expected.size, segment_end, position + self._context.span_bytes)

    def _hash(
        self,
        scheduler: RangeScheduler,
        fd: int,
        digest: RunningDigest,
        threads: BlockThreads,
        *,
        until: int,
        report: Callable[[RangeScheduler, int], None],
        offset: int = 0,
        read_ahead: bool = False,
    ) -> None:
        """Hash the first `until` bytes of the open file as they are written. Its first byte is the source's byte
        `offset`. `report` is called with the position before each block. `read_ahead`: bytes behind `until` stay as
        they are once they are written."""
        while digest.position < until:
            frontier = self._frontier(scheduler, fd, offset + digest.position) - offset
            report(scheduler, offset + digest.position)
            if frontier == digest.position:
                continue
            began, end = time.perf_counter(), min(until, frontier)
            count = threads.read(digest, end, ahead_to=frontier if read_ahead else end)
            if not count:
                raise TransferInterrupted(f"{self._staging.data} was truncated by another program", cure="try again")
            self._verification.count(count, time.perf_counter() - began)

    def _frontier(self, scheduler: RangeScheduler, fd: int, position: int) -> int:
        """As `RangeScheduler.frontier`. While there is nothing to hash, pieces are recorded: hashing them takes no time
        from a transfer that is as fast as this thread, whose bytes are soon below a checkpoint."""
        frontier = scheduler.frontier(position, timeout_s=0)
        if frontier > position or self._record_piece(scheduler, fd):
            return frontier
        return scheduler.frontier(position, timeout_s=_POLL_S)

    def _record_piece(self, scheduler: RangeScheduler, fd: int, *, all_of_it: bool = False) -> bool:
        """Record one piece in the journal, if there is one. With `all_of_it`, however short it is."""
        span = scheduler.take_unrecorded(BLOCK_BYTES, after=self._checkpoint, all_of_it=all_of_it)
        if span and (piece := read_piece(fd, *span, self._buffer)):
            self._staging.journal.add_piece(piece)
        return span is not None

    @contextmanager
    def _recording_at_the_end(self, fd: int, scheduler: RangeScheduler) -> Iterator[None]:
        """If the transfer ends early, record all that was written."""
        try:
            yield
        except BaseException:
            with suppress(OSError):
                while self._record_piece(scheduler, fd, all_of_it=True):
                    pass
            raise

    def _repair(self, fd: int, digest: RunningDigest) -> RunningDigest:
        """Fetch each segment again, over new connections, and replace those that differ. Raises CorruptFile."""
        for _ in range(_REPAIR_ROUNDS):
            replaced = 0
            for index, (start, end) in enumerate(segment_spans(digest.size, digest.segment_bytes)):
                if not self._replace_if_different(fd, start, end, digest.segments[index]):
                    continue
                replaced += 1
                # Mostly one segment is bad: then the others need not be fetched. The file is hashed after the first one
                # of a round only; after each one, the time would be quadratic.
                if replaced == 1 and not (new := self._hash_again(fd)).mismatch(self._expected):
                    return new
            if not replaced:
                break
            digest = self._hash_again(fd)
            if not digest.mismatch(self._expected):
                return digest
        raise CorruptFile(
            f"{self._source.label} is corrupt: {digest.mismatch(self._expected)}, and fetching its "
            f"{len(digest.segments)} segments again did not help",
            cure="its source or a proxy sends wrong bytes: try another network, or report it to the owner",
        )

    def _replace_if_different(self, fd: int, start: int, end: int, digest: SegmentDigest) -> bool:
        """Fetch one segment into a file beside the data, and copy it over the data if its digest differs."""
        path = self._staging.directory / "segment"
        segment_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, UNDER_UMASK)
        try:
            preallocate(segment_fd, path, end - start)
            new = RunningDigest(end - start, segment_bytes=end - start)
            pool = WorkerPool(self._context, path, start, end, written_to=start, rebased=True)
            with pool as scheduler, BlockThreads(segment_fd) as threads:
                report = self._report_repairing
                self._hash(scheduler, segment_fd, new, threads, until=end - start, offset=start, report=report)
            if new.segment_prefix == digest:
                return False
            for offset in range(0, end - start, BLOCK_BYTES):
                write_at(fd, os.pread(segment_fd, min(BLOCK_BYTES, end - start - offset), offset), start + offset)
            self._staging.journal.add_checkpoint(end, new.segment_prefix)
            return True
        finally:
            os.close(segment_fd)
            path.unlink(missing_ok=True)

    def _hash_again(self, fd: int) -> RunningDigest:
        size = self._expected.size

        def on_position(position: int) -> None:
            self._tick(position, done_bytes=size, verify_s=self._verification.left_s(size - position))

        return digest_file(
            fd,
            self._expected,
            segment_bytes=self._options.segment_bytes,
            on_position=on_position,
            on_block=self._on_block,
        )

    def _report_receiving(self, scheduler: RangeScheduler, position: int) -> None:
        written = scheduler.written_bytes
        self._tick(position, done_bytes=written, verify_s=self._verification.left_s(written - position))

    def _report_repairing(self, _scheduler: RangeScheduler, position: int) -> None:
        self._tick(position, done_bytes=self._done, verify_s=None)

    def _check_cancelled(self, *, cure: str = "start it again: the received bytes are kept") -> None:
        if self._cancel.is_set():
            raise TransferInterrupted.cancelled(f"{self._source.label} was cancelled", cure=cure)

    def _tick(
        self,
        position: int,
        *,
        done_bytes: int,
        verify_s: float | None,
    ) -> None:
        """Between two blocks: stop if cancelled, touch the journal as a heartbeat, and report progress."""
        self._check_cancelled()
        now = time.monotonic()
        if now > self._heartbeat_at + _HEARTBEAT_EVERY_S and position != self._heartbeat_position:
            os.utime(self._staging.journal.fd)
            self._heartbeat_at, self._heartbeat_position = now, position
        # The last byte counts once the digest is right. The number never falls, even if parts are fetched again.
        self._done = max(self._done, min(done_bytes, self._expected.size - 1))
        if now > self._reported_at + _PROGRESS_EVERY_S:
            self._report(self._done, verify_s)

    def _report(self, done_bytes: int, verify_s: float | None = 0.0) -> None:
        self._reported_at = time.monotonic()
        if self._on_progress:
            self._on_progress(
                Progress(
                    label=self._source.label,
                    done_bytes=done_bytes,
                    total_bytes=self._expected.size,
                    transferred_bytes=self.meter.transferred_bytes,
                    resumed_bytes=self.resumed_bytes,
                    rate_bytes_per_s=self.meter.rate_bytes_per_s(),
                    verify_s=verify_s,
                )
            )
