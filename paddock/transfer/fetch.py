"""From a source to a complete, verified, fsynced file that is not yet visible.

Workers fetch spans in parallel (`pump`); the calling thread follows the frontier, hashes what landed, in order, out
of the page cache, and writes the journal. What an earlier process left is hashed in the same pass: a claim that does
not hold is dropped, and its bytes are fetched again. A kill loses at most about one segment.

Where the whole-file digest is wrong though every byte was written as it came, each segment is fetched again and those
that differ are replaced, at most twice; then the bytes are removed and the file is called corrupt.

Publishing is not done here: the caller renames `Staged.path` into place, and then calls `Staged.discard`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.errors import CorruptFile, TransferInterrupted
from paddock.model.names import Sha256
from paddock.model.source import Source
from paddock.transfer.digest import BLOCK_BYTES, RunningDigest, digest_file, digest_for, segment_spans
from paddock.transfer.limiter import Meter, Patience
from paddock.transfer.pump import Line, Pump
from paddock.transfer.room import disk_error, make_room, write_at
from paddock.transfer.schedule import Schedule
from paddock.transfer.staging import Claim, acquire

if TYPE_CHECKING:
    from paddock.settings import Settings

_MIB = 1024 * 1024
_POLL_S = 0.1
_PROGRESS_EVERY_S = 0.25
_SIGN_OF_LIFE_EVERY_S = 2.0
_LEAST_QUIET_S = 60.0
_REPAIR_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Options:
    connections: int = 8
    segment_bytes: int = 64 * _MIB
    limit_rate_bytes_per_s: int | None = None
    stall_s: float = 30.0

    @staticmethod
    def of(settings: Settings) -> Options:
        return Options(
            connections=settings.connections,
            segment_bytes=settings.segment_bytes,
            limit_rate_bytes_per_s=settings.limit_rate_bytes_per_s,
            stall_s=settings.stall_s,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` are there; `resumed_bytes` of them were there before, and hold.
    `transferred_bytes` came over the network.
    """

    label: str
    done_bytes: int
    total_bytes: int
    transferred_bytes: int
    resumed_bytes: int
    rate_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete, verified, fsynced file that is not yet visible. Until `discard`, other processes wait for it."""

    path: Path
    size: int
    sha256: Sha256
    segments: tuple[Sha256, ...]
    segment_bytes: int
    transferred_bytes: int
    resumed_bytes: int
    seconds: float
    _claim: Claim | None = field(default=None, repr=False, compare=False)

    def discard(self) -> None:
        """Remove what is left of the staging directory, after `path` was renamed away, or not."""
        if self._claim:
            self._claim.discard()


def fetch(
    source: Source,
    *,
    staging: Path,
    options: Options = Options(),
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    arrived: Callable[[], bool] | None = None,
) -> Staged | None:
    """Fetch a file into `staging`; None when `arrived()` says that another process, which fetched the same bytes, has
    published them.

    Whatever ends it early leaves something to resume, except for bytes without a digest. Raises TransferInterrupted
    (also when `cancel` is set), TransferRefused, CorruptFile, NotEnoughDisk, NoPermission, and the permanent errors
    of the source.
    """
    started = time.monotonic()
    cancel = cancel or threading.Event()
    expected = source.expected
    try:
        claim = acquire(
            staging,
            expected,
            segment_bytes=options.segment_bytes,
            quiet_s=max(2 * options.stall_s, _LEAST_QUIET_S),
            label=source.label,
            cancel=cancel,
            arrived=arrived or (lambda: False),
        )
    except OSError as error:
        raise disk_error(error, staging, expected.size) from error
    if claim is None:
        return None
    try:
        transfer = _Transfer(source, claim, options, progress, cancel)
        digest = transfer.run()
    except CorruptFile:
        claim.discard()
        raise
    except OSError as error:
        claim.release()
        raise disk_error(error, claim.data, expected.size) from error
    except BaseException:
        claim.release()
        raise
    return Staged(
        path=claim.data,
        size=expected.size,
        sha256=digest.sha256,
        segments=digest.segments,
        segment_bytes=options.segment_bytes,
        transferred_bytes=transfer.meter.transferred_bytes,
        resumed_bytes=transfer.resumed_bytes,
        seconds=time.monotonic() - started,
        _claim=claim,
    )


class _Transfer:
    """One fetch into one staging directory. Everything here runs in the calling thread."""

    def __init__(
        self,
        source: Source,
        claim: Claim,
        options: Options,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event,
    ) -> None:
        self._source = source
        self._expected = source.expected
        self._claim = claim
        self._options = options
        self._progress = progress
        self._cancel = cancel
        self._told = self._alive = float("-inf")
        self._done = 0
        self.resumed_bytes = 0
        self.meter = Meter()
        self._line = Line(
            source=source,
            connections=options.connections,
            segment_bytes=options.segment_bytes,
            limit_rate_bytes_per_s=options.limit_rate_bytes_per_s,
            stall_s=options.stall_s,
            meter=self.meter,
            patience=Patience(source.label, self.meter, cure="try again later: what came is kept"),
            still_ours=lambda: claim.is_ours,
        )

    def run(self) -> RunningDigest:
        fd = os.open(self._claim.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            make_room(fd, self._claim.data, self._expected.size)
            digest = self._receive(fd)
            if digest.mismatch(self._expected):
                digest = self._repair(fd, digest)
            try:
                os.fsync(fd)
            except OSError:
                # The kernel may now take pages for written that are not, and hashing them again would prove nothing:
                # https://wiki.postgresql.org/wiki/Fsync_Errors
                self._claim.discard()
                raise
        finally:
            os.close(fd)
        self._tell(digest.size)
        return digest

    def _receive(self, fd: int) -> RunningDigest:
        """Hash the file in order while it lands, check what the journal claims, and claim the rest."""
        digest = digest_for(self._expected, segment_bytes=self._options.segment_bytes)
        claims = self._claim.claims
        ends = sorted(claims)
        good = digest.copy()
        with Pump(self._line, self._claim.data, 0, digest.size, landed=max(claims, default=0)) as schedule:
            while digest.position < digest.size:
                mark = ends[0] if ends else self._next_mark(digest.position)
                self._follow(schedule, fd, digest, until=mark)
                if ends:
                    ends.pop(0)
                proof = claims.pop(mark, None)
                if proof is None:
                    self._claim.journal.append(mark, digest.segment_prefix)
                elif proof == digest.segment_prefix:
                    self.resumed_bytes += mark - good.position
                else:
                    # The segment's later claims are about the same bytes: all of it is fetched again, in parallel.
                    segment_end = -(-mark // digest.segment_bytes) * digest.segment_bytes
                    bad_end = max([mark, *(end for end in ends if end <= segment_end)])
                    schedule.fetch_again(good.position, bad_end)
                    ends = [bad_end, *(end for end in ends if end > bad_end)]
                    claims = {end: proof for end, proof in claims.items() if end > bad_end}
                    digest = good
                good = digest.copy()
        return digest

    def _next_mark(self, position: int) -> int:
        """Where the next claim ends: after a span's length, and at the end of each segment."""
        segment_end = (position // self._options.segment_bytes + 1) * self._options.segment_bytes
        return min(self._expected.size, segment_end, position + self._line.span_bytes)

    def _follow(self, schedule: Schedule, fd: int, digest: RunningDigest, *, until: int, offset: int = 0) -> None:
        """Hash the file's first `until` bytes as they land. The file's first byte is the source's byte `offset`."""
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while digest.position < until:
            frontier = schedule.frontier(offset + digest.position, timeout_s=_POLL_S) - offset
            self._tick(offset + frontier)
            if frontier == digest.position:
                continue
            count = min(BLOCK_BYTES, min(until, frontier) - digest.position, digest.segment_end - digest.position)
            count = os.preadv(fd, [buffer[:count]], digest.position)
            if not count:
                raise TransferInterrupted(f"{self._claim.data} was cut short by another program", cure="try again")
            digest.update(buffer[:count])

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

    def _replace_if_different(self, fd: int, start: int, end: int, digest: Sha256) -> bool:
        """Fetch one segment into a file beside the data, and copy it over the data where its digest is another one."""
        path = self._claim.directory / "segment"
        spare = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            make_room(spare, path, end - start)
            came = RunningDigest(end - start, segment_bytes=end - start)
            with Pump(self._line, path, start, end, landed=start, rebased=True) as schedule:
                self._follow(schedule, spare, came, until=end - start, offset=start)
            if came.sha256 == digest:
                return False
            for offset in range(0, end - start, BLOCK_BYTES):
                write_at(fd, os.pread(spare, min(BLOCK_BYTES, end - start - offset), offset), start + offset)
            self._claim.journal.append(end, came.sha256)
            return True
        finally:
            os.close(spare)
            path.unlink(missing_ok=True)

    def _hash_again(self, fd: int) -> RunningDigest:
        return digest_file(fd, self._expected, segment_bytes=self._options.segment_bytes, tick=self._tick)

    def _tick(self, done_bytes: int) -> None:
        """Between two blocks: stop when told to, show that we live, and tell how far it is."""
        if self._cancel.is_set():
            raise TransferInterrupted(f"{self._source.label} was cancelled", cure="start it again: what came is kept")
        now = time.monotonic()
        if now > self._alive + _SIGN_OF_LIFE_EVERY_S and done_bytes != self._done:
            os.utime(self._claim.journal.fd)
            self._alive, self._done = now, done_bytes
        if now > self._told + _PROGRESS_EVERY_S:
            self._tell(done_bytes)

    def _tell(self, done_bytes: int) -> None:
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
                )
            )
