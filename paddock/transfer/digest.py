"""Digests of a file's bytes: of the whole, and of each *segment* (a fixed length of the file; the last one may be
shorter).

hashlib leaves the interpreter's lock alone for blocks as large as these, so that hashing runs beside the threads that
move bytes, and the two digests of a byte beside each other. What a wrong digest leads to is the caller's business.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from paddock.errors import CorruptFile
from paddock.model.names import Sha256
from paddock.model.source import Expected

BLOCK_BYTES = 4 * 1024 * 1024
_WORTH_A_THREAD_BYTES = 256 * 1024

Tap = Callable[[int, memoryview], None]
"""Who is given each byte of a file on its way to the digest: the offset of a block, and the block, whose memory is used
again afterwards."""


class RunningDigest:
    """The digests of a file's first `position` bytes: of all of them, of each whole segment, and of the one begun.

    Without `with_segments` that of all of them alone, which is half of the work: `segments` is empty then.
    """

    def __init__(self, size: int, *, segment_bytes: int, with_git: bool = False, with_segments: bool = True) -> None:
        self.position = 0
        self.size = size
        self.segment_bytes = segment_bytes
        self.with_segments = with_segments
        self._whole = hashlib.sha256()
        self._segment = hashlib.sha256()
        self._segments: list[Sha256] = []
        # git's own name of a blob, no measure of safety: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if with_git else None

    @property
    def segment_end(self) -> int:
        """Where the segment that `position` is in ends."""
        return min(self.size, (self.position // self.segment_bytes + 1) * self.segment_bytes)

    def update(self, block: memoryview, *, beside: Executor | None = None) -> None:
        """Take the next bytes. They must not reach over `segment_end`. A thread of `beside` takes half of the work."""
        # The first segment is all there is so far: one digest is both.
        twice = self.with_segments and self.position >= self.segment_bytes
        shared = twice and beside and len(block) >= _WORTH_A_THREAD_BYTES
        half = beside.submit(self._segment.update, block) if beside and shared else None
        self._whole.update(block)
        if self._git:
            self._git.update(block)
        if half:
            half.result()
        elif twice:
            self._segment.update(block)
        end = self.segment_end
        self.position += len(block)
        if self.position == end and self.with_segments:
            self._segments.append(Sha256((self._segment if twice else self._whole).hexdigest()))
            self._segment = hashlib.sha256()

    @property
    def segment_prefix(self) -> Sha256:
        """The sha256 from the start of the last segment with a byte before `position` to there; without segments from
        the start of the file."""
        if not self.with_segments:
            return self.sha256
        if self.position and (self.position % self.segment_bytes == 0 or self.position == self.size):
            return self._segments[-1]
        return Sha256((self._segment if self._segments else self._whole).hexdigest())

    @property
    def sha256(self) -> Sha256:
        return Sha256(self._whole.hexdigest())

    @property
    def segments(self) -> tuple[Sha256, ...]:
        return tuple(self._segments)

    def copy(self) -> RunningDigest:
        twin = RunningDigest(self.size, segment_bytes=self.segment_bytes, with_segments=self.with_segments)
        twin.position = self.position
        twin._whole = self._whole.copy()
        twin._segment = self._segment.copy()
        twin._segments = self._segments.copy()
        twin._git = self._git.copy() if self._git else None
        return twin

    def mismatch(self, expected: Expected) -> str | None:
        """What came and what was expected, where a digest differs; None where each expected one is right."""
        if expected.sha256 and expected.sha256 != self.sha256:
            return f"its sha256 is {self.sha256}, expected {expected.sha256}"
        if expected.git_sha1 and self._git and expected.git_sha1 != self._git.hexdigest():
            return f"its git sha1 is {self._git.hexdigest()}, expected {expected.git_sha1}"
        return None


def digest_for(expected: Expected, *, segment_bytes: int, with_segments: bool = True) -> RunningDigest:
    return RunningDigest(
        expected.size,
        segment_bytes=segment_bytes,
        with_git=expected.git_sha1 is not None,
        with_segments=with_segments,
    )


def digest_file(
    fd: int,
    expected: Expected,
    *,
    segment_bytes: int,
    tick: Callable[[int], None] = lambda _: None,
    tap: Tap | None = None,
) -> RunningDigest:
    """The digests of the first `expected.size` bytes of an open file. A file that ends early leaves `position` where
    it ended.

    `tap` is given each block before it is hashed; `tick` is told the position after it, and may raise.
    """
    digest = digest_for(expected, segment_bytes=segment_bytes)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with ThreadPoolExecutor(1) as beside:
        while digest.position < digest.size:
            block = buffer[: min(BLOCK_BYTES, digest.segment_end - digest.position)]
            count = os.preadv(fd, [block], digest.position)
            if not count:
                break
            if tap:
                tap(digest.position, block[:count])
            digest.update(block[:count], beside=beside)
            tick(digest.position)
    return digest


def verify_file(
    path: Path, expected: Expected, segment_bytes: int, *, tap: Tap | None = None
) -> tuple[Sha256, tuple[Sha256, ...]]:
    """The sha256 of a local file and of its segments, read from the disk; `tap` is given each block.

    Raises CorruptFile when its size or a digest is not the expected one, and OSError where it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size != expected.size:
            raise CorruptFile(f"{path} has {size} bytes, expected {expected.size}", cure="fetch it again")
        digest = digest_file(fd, expected, segment_bytes=segment_bytes, tap=tap)
    finally:
        os.close(fd)
    if problem := digest.mismatch(expected):
        raise CorruptFile(f"{path} is damaged: {problem}", cure="fetch it again")
    if digest.position != expected.size:
        raise CorruptFile(f"{path} ended at byte {digest.position} while it was read, expected {expected.size} bytes")
    return digest.sha256, digest.segments


def segment_spans(size: int, segment_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and end (exclusive) of each segment, in order."""
    for start in range(0, size, segment_bytes):
        yield start, min(size, start + segment_bytes)
