"""Compare the stored bytes of a blob with its digests: segment by segment, at a limited rate.

Each segment is compared with its BLAKE3 digest in the manifest, which was computed when the sha256 of the whole file
was right. BLAKE3 is several times faster than sha256; reading both would be slower than `sha256sum`. Where no manifest
has segment digests, and where a segment differs, the whole file is compared with its sha256: a wrong digest in a
manifest does not make a sound blob a damaged one.

A file on the volume is read in order by one thread, which tells the kernel what it reads next, and that what it has
read is not needed again; what was in the page cache before stays there. Pages that a running server has mapped stay in
any case: the kernel drops no mapped page.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Protocol

from paddock.model.names import SegmentDigest
from paddock.store.named_blobs import NamedBlob
from paddock.transfer.digest import SegmentHash, segment_spans
from paddock.transfer.rate_limit import RateLimit
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

_READ_BYTES = 512 * 1024
_READ_AHEAD_BYTES = 8 * 1024 * 1024


class OutOfTime(Exception):
    """The time that was given to the reader is over, or it was stopped."""


class Pace:
    """How fast a reader may read, and for how long. None: without a limit. `stop` ends it early.

    `read_bytes` counts what was read.
    """

    def __init__(
        self,
        *,
        limit_bytes_per_s: int | None = None,
        max_seconds: float | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._stop = stop or threading.Event()
        self._limit = RateLimit(limit_bytes_per_s, connections=1, stopped=self._stop)
        self._ends_at = None if max_seconds is None else time.monotonic() + max_seconds
        self.block_bytes = _READ_BYTES if limit_bytes_per_s is None else self._limit.read_bytes
        self.read_bytes = 0

    def check(self) -> None:
        """Raise OutOfTime when the reader has to end."""
        if self._stop.is_set() or (self._ends_at is not None and time.monotonic() >= self._ends_at):
            raise OutOfTime

    def consume(self, count: int) -> None:
        """Count bytes that were read, and wait until they are within the limit."""
        self.read_bytes += count
        self._limit.consume(count)


@dataclass(frozen=True, slots=True)
class BlobCheck:
    """The result of a comparison.

    `bad_segments` are the numbers of the damaged segments from 0, empty where no manifest has segment digests. `damage`
    describes what was found instead of the blob's bytes, "" for a sound blob. `problem` is why the file could not be
    read: then nothing is known of its bytes.
    """

    damage: str = ""
    bad_segments: tuple[int, ...] = ()
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.damage and not self.problem


SOUND = BlobCheck()


@dataclass(frozen=True, slots=True)
class Start:
    """Where a comparison begins: at `segment`. An earlier one came that far, and found `bad` ones before it.

    `on_segment` is called after each segment with the number of the next one, and the damaged ones so far.
    """

    segment: int = 0
    bad: tuple[int, ...] = ()
    on_segment: Callable[[int, tuple[int, ...]], None] = lambda *_: None


FROM_THE_START = Start()


class Bytes(Protocol):
    """The stored bytes of a blob, `size` in all. `read_into` fills a buffer from an offset, and returns how many bytes
    it read: 0 behind the end. Raises OSError with EIO for bytes that cannot be read any more."""

    size: int

    def read_into(self, buffer: memoryview, offset: int) -> int: ...

    def begin_segment(self, start: int, end: int) -> Callable[[], None]:
        """Called before a segment is read; returns what to call when it was read."""
        ...


def compare(stored: Bytes, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START) -> BlobCheck:
    """Compare stored bytes with the digests of a blob. Raises OutOfTime, and OSError for bytes that cannot be read for
    now."""
    reading = _Reading(stored, blob, pace)
    if not blob.segments:
        return reading.compare_whole()
    damaged = list(start.bad)
    for number, span in enumerate(segment_spans(blob.size, blob.segment_bytes)):
        if number < start.segment:
            continue
        if not reading.is_sound(*span, blob.segments[number]):
            damaged.append(number)
        start.on_segment(number + 1, tuple(damaged))
    if not damaged and stored.size == blob.size:
        return SOUND
    whole = reading.compare_whole()
    if whole.ok or not damaged:
        return whole
    size = f"{whole.damage}, " if stored.size != blob.size else ""
    return BlobCheck(f"{size}is damaged in {describe_segments(blob, tuple(damaged))}", tuple(damaged))


def is_segment_sound(stored: Bytes, blob: NamedBlob, number: int, pace: Pace) -> bool:
    """Whether one segment of stored bytes has its digest. Raises OutOfTime, and OSError as `compare`."""
    start = number * blob.segment_bytes
    reading = _Reading(stored, blob, pace)
    return reading.is_sound(start, min(start + blob.segment_bytes, blob.size), blob.segments[number])


def describe_segments(blob: NamedBlob, numbers: tuple[int, ...]) -> str:
    """Damaged segments for people, counted from 1: `segment 3 of 5 (bytes 128 to 191)`."""
    spans = list(segment_spans(blob.size, blob.segment_bytes))
    shown = [
        f"segment {number + 1} of {len(spans)} (bytes {spans[number][0]} to {spans[number][1] - 1})"
        for number in numbers[:4]
    ]
    more = len(numbers) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


class _Reading:
    """Reads the stored bytes of one blob."""

    def __init__(self, stored: Bytes, blob: NamedBlob, pace: Pace) -> None:
        self._stored = stored
        self._blob = blob
        self._pace = pace
        self._buffer = memoryview(bytearray(min(pace.block_bytes, max(blob.size, 1))))

    def is_sound(self, start: int, end: int, expected: SegmentDigest) -> bool:
        """Whether a segment has its digest."""
        digest = SegmentHash(expected)
        return self._feed(start, end, digest.update) and digest.digest == expected

    def compare_whole(self) -> BlobCheck:
        """Compare the size and the sha256."""
        size, expected = self._stored.size, self._blob
        if size != expected.size:
            return BlobCheck(f"has {size} bytes, and {expected.size} were stored")
        digest = sha256_of()
        for start, end in segment_spans(size, expected.segment_bytes):
            if not self._feed(start, end, digest.update):
                return BlobCheck("cannot be read: the disk reports an error")
        found = digest.hexdigest()
        return SOUND if found == expected.sha256 else BlobCheck(f"has the sha256 {found}, not {expected.sha256}")

    def _feed(self, start: int, end: int, update: Callable[[memoryview], None]) -> bool:
        """Pass on the bytes from `start` up to `end`. False where one of them cannot be read, or is not there."""
        done = self._stored.begin_segment(start, end)
        try:
            while start < end:
                self._pace.check()
                count = self._read(self._buffer[: min(len(self._buffer), end - start)], start)
                if not count:
                    return False
                update(self._buffer[:count])
                start += count
                self._pace.consume(count)
        finally:
            done()
        return True

    def _read(self, block: memoryview, offset: int) -> int:
        try:
            return self._stored.read_into(block, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return 0


class FileBytes(Bytes):
    """The bytes of an open file on the volume. `is_needed_again`: what is read stays in the page cache."""

    def __init__(self, descriptor: int, *, is_needed_again: bool = False) -> None:
        self._descriptor = descriptor
        self._is_needed_again = is_needed_again
        self.size = os.fstat(descriptor).st_size
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self._descriptor, [buffer], offset)

    def begin_segment(self, start: int, end: int) -> Callable[[], None]:
        if self._is_cached(min(end, self.size) - 1):
            return lambda: None
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, start, min(end - start, _READ_AHEAD_BYTES), os.POSIX_FADV_WILLNEED)

        def drop() -> None:
            if self._is_needed_again:
                return
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

        return drop

    def _is_cached(self, offset: int) -> bool:
        """Whether a byte is in the page cache. The last one of a segment was not put there by reading ahead from the
        segment before, unless segments are small."""
        if offset < 0:
            return True
        try:
            return os.preadv(self._descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except OSError:
            return False


def check_file(
    path: Path, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START, *, follow: bool = False
) -> tuple[BlobCheck, os.stat_result | None]:
    """Compare a file with the digests of a blob, as `compare`. With `follow`, the path may be a link.

    Returns the result, and the status of the file that was read; None where there is no file that can be read. Raises
    OutOfTime.
    """
    try:
        descriptor = open_regular(path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        return BlobCheck("is missing"), None
    except UnusableContent as error:
        return BlobCheck(error.reason.removeprefix("it ")), None
    except OSError as error:
        found = {errno.ELOOP: "is a link", errno.EIO: "cannot be read: the disk reports an error"}.get(error.errno or 0)
        return (BlobCheck(found) if found else BlobCheck(problem=f"{path} cannot be read: {error.strerror}")), None
    try:
        status = os.fstat(descriptor)
        return compare(FileBytes(descriptor), blob, pace, start), status
    except OSError as error:
        return BlobCheck(problem=f"{path} cannot be read: {error.strerror}"), None
    finally:
        os.close(descriptor)
