"""The calling thread's side of a fetch: it follows what lands, hashes it, keeps the journal, and repairs.

The bytes are read back out of the page cache, where the workers, or another engine, have just put them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paddock.errors import CorruptFile, TransferInterrupted
from paddock.model.names import SegmentDigest
from paddock.model.source import Source
from paddock.transfer import backends
from paddock.transfer.backends import Backend
from paddock.transfer.digest import BLOCK_BYTES, OnBlock, RunningDigest, digest_file, digest_for, segment_spans
from paddock.transfer.limiter import Meter, RetryBudget
from paddock.transfer.options import Options
from paddock.transfer.pieces import sound_pieces
from paddock.transfer.preallocation import disk_error, preallocate, require_room, write_at
from paddock.transfer.progress import OnProgress, Progress, Verification
from paddock.transfer.range_scheduler import RangeScheduler
from paddock.transfer.staging import Claim
from paddock.transfer.workers import TransferContext, WorkerPool
from paddock.transfer.writeback import WriteBack

_POLL_S = 0.1
_PROGRESS_EVERY_S = 0.25
_SIGN_OF_LIFE_EVERY_S = 2.0
_REPAIR_ROUNDS = 2


class Assembler:
    """One fetch into one staging directory. All of it runs in the calling thread."""

    def __init__(
        self,
        source: Source,
        claim: Claim,
        options: Options,
        *,
        cancel: threading.Event,
        progress: OnProgress | None,
        tap: OnBlock | None,
    ) -> None:
        self._source = source
        self._expected = source.expected
        self._claim = claim
        self._options = options
        self._cancel = cancel
        self._progress = progress
        self._tap = tap
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._told = self._alive = float("-inf")
        self._position = self._done = 0
        self._verification = Verification()
        self.resumed_bytes = 0
        self.meter = Meter()
        self._line = TransferContext(
            source=source,
            connections=options.connections,
            segment_bytes=options.segment_bytes,
            limit_rate_bytes_per_s=options.limit_rate_bytes_per_s,
            stall_s=options.stall_s,
            meter=self.meter,
            patience=RetryBudget(source.label, self.meter, cure="try again later: what came is kept"),
            still_ours=lambda: claim.is_ours,
            asked_span_bytes=options.span_bytes,
        )

    def run(self) -> RunningDigest:
        backends.clean(self._claim.data)  # what a dead one left
        landed = self._claim.claimed_bytes
        limited = self._options.limit_rate_bytes_per_s is not None
        # What another engine cannot take up, ours does.
        engine: Backend = "paddock"
        if not self._claim.held_bytes:
            engine = backends.fitting(self._options.engine, self._source, limited=limited)
        if engine != "paddock":
            self._have_moved(engine)
            landed = self._expected.size
        with self._data() as fd, WriteBack(fd) as write_back:
            preallocate(fd, self._claim.data, self._expected.size)
            digest = self._receive(fd, write_back, landed=landed)
            if digest.mismatch(self._expected):
                digest = self._repair(fd, digest)
            self._make_durable(fd)
        self._tell(digest.size)
        return digest

    def _make_durable(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            # The kernel may now take pages for written that are not, and hashing them again would prove nothing:
            # https://wiki.postgresql.org/wiki/Fsync_Errors
            self._claim.discard()
            raise disk_error(error, self._claim.data, self._expected.size, kept=False) from error

    def _have_moved(self, engine: Backend) -> None:
        """Let another engine bring all of it. Not one byte of that is believed yet."""
        with self._data() as fd:
            # huggingface_hub writes a file of its own, and then gives it this name.
            room = require_room if engine == "xet" else preallocate
            room(fd, self._claim.data, self._expected.size)

        told = most = 0

        def tick(came: int) -> None:
            nonlocal told, most
            # A second try begins at 0 again, and what the first one brought came over the network all the same.
            self.meter.count(max(0, came - told), max(0, came - most))
            told, most = came, max(most, came)
            self._check(cure="start it again")
            self._tick(came, done_bytes=came, verify_s=self._verification.left_s(self._expected.size))

        came = backends.move(
            engine,
            self._source,
            self._claim.data,
            connections=self._options.connections,
            stall_s=self._options.stall_s,
            tick=tick,
        )
        tick(max(came, self._expected.size))

    @contextmanager
    def _data(self) -> Iterator[int]:
        fd = os.open(self._claim.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def _receive(self, fd: int, write_back: WriteBack, *, landed: int) -> RunningDigest:
        """Hash the file in order while it lands, check what the journal claims, and claim the rest. The first `landed`
        bytes are there."""
        digest = digest_for(self._expected, segment_bytes=self._options.segment_bytes)
        claims = self._claim.claims
        ends = sorted(claims)
        good = digest.copy()
        pieces = self._sound_pieces(fd, behind=landed)
        self.resumed_bytes = self._claim.claimed_bytes + sum(end - start for start, end in pieces)
        path, journal = self._claim.data, self._claim.journal
        with WorkerPool(self._line, path, 0, digest.size, landed=landed, pieces=pieces, journal=journal) as schedule:
            while digest.position < digest.size:
                mark = ends[0] if ends else self._next_mark(digest.position)
                self._follow(schedule, fd, digest, until=mark, tap=self._tap, report=self._report)
                if ends:
                    ends.pop(0)
                    if not ends:  # until now the connections waited for the reader
                        self.meter.restart()
                proof = claims.pop(mark, None)
                if proof is None:
                    journal.append(mark, digest.segment_prefix)
                elif proof != digest.segment_prefix:
                    # The segment's later claims are about the same bytes: all of it is fetched again, in parallel.
                    segment_end = -(-mark // digest.segment_bytes) * digest.segment_bytes
                    bad_end = max([mark, *(end for end in ends if end <= segment_end)])
                    schedule.fetch_again(good.position, bad_end)
                    self.resumed_bytes -= bad_end - good.position
                    ends = [bad_end, *(end for end in ends if end > bad_end)]
                    claims = {end: proof for end, proof in claims.items() if end > bad_end}
                    digest = good
                good = digest.copy()
                if digest.position % digest.segment_bytes == 0:
                    write_back.landed()
        return digest

    def _sound_pieces(self, fd: int, *, behind: int) -> list[tuple[int, int]]:
        """What is in the file behind the last claim."""
        pieces = [piece for piece in self._claim.pieces if piece.end > behind]
        return sound_pieces(fd, pieces, behind=behind, block=self._block, tick=self._check)

    def _next_mark(self, position: int) -> int:
        """Where the next claim ends: after a span's length, and at the end of each segment."""
        segment_end = (position // self._options.segment_bytes + 1) * self._options.segment_bytes
        return min(self._expected.size, segment_end, position + self._line.span_bytes)

    def _follow(
        self,
        schedule: RangeScheduler,
        fd: int,
        digest: RunningDigest,
        *,
        until: int,
        report: Callable[[RangeScheduler, int], None],
        offset: int = 0,
        tap: OnBlock | None = None,
    ) -> None:
        """Hash the file's first `until` bytes as they land. The file's first byte is the source's byte `offset`.
        `report` is given the position before each block."""
        while digest.position < until:
            frontier = schedule.frontier(offset + digest.position, timeout_s=_POLL_S) - offset
            report(schedule, offset + digest.position)
            if frontier == digest.position:
                continue
            count = min(BLOCK_BYTES, min(until, frontier) - digest.position, digest.segment_end - digest.position)
            began = time.perf_counter()
            block = self._block[: os.preadv(fd, [self._block[:count]], digest.position)]
            if not block:
                raise TransferInterrupted(f"{self._claim.data} was cut short by another program", cure="try again")
            if tap:
                tap(digest.position, block)
            digest.update(block)
            self._verification.count(len(block), time.perf_counter() - began)

    def _repair(self, fd: int, digest: RunningDigest) -> RunningDigest:
        """Fetch each segment again, over other connections, and replace those that differ."""
        for _ in range(_REPAIR_ROUNDS):
            replaced = 0
            for index, (start, end) in enumerate(segment_spans(digest.size, digest.segment_bytes)):
                if not self._replace_if_different(fd, start, end, digest.segments[index]):
                    continue
                replaced += 1
                # Mostly one segment is bad: then the rest need not be fetched. Asked once a round, not after each one,
                # or the time would grow as the square.
                if replaced == 1 and not (again := self._hash_again(fd)).mismatch(self._expected):
                    return again
            if not replaced:
                break
            digest = self._hash_again(fd)
            if not digest.mismatch(self._expected):
                return digest
        raise CorruptFile(
            f"{self._source.label} is not what it should be: {digest.mismatch(self._expected)}, and fetching its "
            f"{len(digest.segments)} segments again did not help",
            cure="its source, or a proxy on the way, sends wrong bytes: try another network, or tell its owner",
        )

    def _replace_if_different(self, fd: int, start: int, end: int, digest: SegmentDigest) -> bool:
        """Fetch one segment into a file beside the data, and copy it over the data where its digest is another one."""
        path = self._claim.directory / "segment"
        spare = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            preallocate(spare, path, end - start)
            came = RunningDigest(end - start, segment_bytes=end - start)
            with WorkerPool(self._line, path, start, end, landed=start, rebased=True) as schedule:
                self._follow(schedule, spare, came, until=end - start, offset=start, report=self._report_repair)
            if came.segment_prefix == digest:
                return False
            for offset in range(0, end - start, BLOCK_BYTES):
                write_at(fd, os.pread(spare, min(BLOCK_BYTES, end - start - offset), offset), start + offset)
            self._claim.journal.append(end, came.segment_prefix)
            return True
        finally:
            os.close(spare)
            path.unlink(missing_ok=True)

    def _hash_again(self, fd: int) -> RunningDigest:
        size = self._expected.size

        def tick(position: int) -> None:
            self._tick(position, done_bytes=size, verify_s=self._verification.left_s(size - position))

        return digest_file(fd, self._expected, segment_bytes=self._options.segment_bytes, tick=tick, tap=self._tap)

    def _report(self, schedule: RangeScheduler, position: int) -> None:
        landed = schedule.landed_bytes
        self._tick(position, done_bytes=landed, verify_s=self._verification.left_s(landed - position))

    def _report_repair(self, _schedule: RangeScheduler, position: int) -> None:
        self._tick(position, done_bytes=self._done, verify_s=None)

    def _check(self, *, cure: str = "start it again: what came is kept") -> None:
        if self._cancel.is_set():
            raise TransferInterrupted(f"{self._source.label} was cancelled", cure=cure)

    def _tick(
        self,
        position: int,
        *,
        done_bytes: int,
        verify_s: float | None,
    ) -> None:
        """Between two blocks: stop when told to, show that we live, and tell how far it is."""
        self._check()
        now = time.monotonic()
        if now > self._alive + _SIGN_OF_LIFE_EVERY_S and position != self._position:
            os.utime(self._claim.journal.fd)
            self._alive, self._position = now, position
        # All of it is done when its digest is right. It never falls, though what is wrong is fetched again.
        self._done = max(self._done, min(done_bytes, self._expected.size - 1))
        if now > self._told + _PROGRESS_EVERY_S:
            self._tell(self._done, verify_s)

    def _tell(self, done_bytes: int, verify_s: float | None = 0.0) -> None:
        self._told = time.monotonic()
        if self._progress:
            self._progress(
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
