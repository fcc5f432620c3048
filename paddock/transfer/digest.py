"""Compute and verify the digests of a file: its sha256, its git blob sha1, and one digest for each segment.

A *segment* is a fixed length of the file; the last one may be shorter. The Hub and the stores name a file by its
sha256. Segment digests are Paddock's own, so that they can be BLAKE3, which is as safe and takes a fifth of the time of
sha256 (https://github.com/BLAKE3-team/BLAKE3). Both release the GIL for blocks as large as these, so that hashing runs
beside the threads that move bytes, and the digests beside each other. What follows from a wrong digest is left to the
caller.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from paddock.errors import CorruptFile
from paddock.model.names import SegmentDigest, Sha256
from paddock.model.source import Expected
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

BLOCK_BYTES = 4 * 1024 * 1024
_MIN_BESIDE_BYTES = 256 * 1024
"""A smaller block takes less time than it takes to wake a thread."""
_BLAKE3 = "blake3:"

OnBlock = Callable[[int, memoryview], None]
"""Called with each block of a file while it is hashed, in a thread of its own: its offset and its bytes. The memory is
reused after the call."""


def same_algorithm(first: Sequence[SegmentDigest], second: Sequence[SegmentDigest]) -> bool:
    """Whether all digests of two lists are of one algorithm, so that they can be compared. False for an empty list."""
    return bool(first and second) and len({digest.startswith(_BLAKE3) for digest in (*first, *second)}) == 1


class SegmentHash:
    """Incremental hash of a segment: BLAKE3, or sha256 if the digest `like` is one."""

    def __init__(self, like: SegmentDigest | None = None) -> None:
        self._prefix = _BLAKE3 if like is None or like.startswith(_BLAKE3) else ""
        self._hash = blake3() if self._prefix else hashlib.sha256()

    def update(self, block: bytes | memoryview) -> None:
        self._hash.update(block)

    @property
    def digest(self) -> SegmentDigest:
        return SegmentDigest(self._prefix + self._hash.hexdigest())

    def copy(self) -> SegmentHash:
        duplicate = copy.copy(self)
        duplicate._hash = self._hash.copy()
        return duplicate


class RunningDigest:
    """Digests of the first `position` bytes of a file: of all of them, of each complete segment, and of the current
    segment so far.

    `like` sets the algorithm of the segment digests: that of the digests which they will be compared with.
    """

    def __init__(
        self, size: int, *, segment_bytes: int, with_git: bool = False, like: SegmentDigest | None = None
    ) -> None:
        self.position = 0
        self.size = size
        self.segment_bytes = segment_bytes
        self._like = like
        self._whole = hashlib.sha256()
        self._segment = SegmentHash(like)
        self._segments: list[SegmentDigest] = []
        # git's name of a blob, not a security measure: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if with_git else None

    @property
    def segment_end(self) -> int:
        """End (exclusive) of the segment that holds the byte at `position`."""
        return min(self.size, (self.position // self.segment_bytes + 1) * self.segment_bytes)

    def update(self, block: memoryview) -> None:
        """Hash the next bytes. They must not extend beyond `segment_end`."""
        self.hash_whole(block)
        self.hash_parts(block)
        self.advance(len(block))

    def hash_whole(self, block: memoryview) -> None:
        """One part of `update`, which may run beside the other one, in another thread."""
        self._whole.update(block)

    def hash_parts(self, block: memoryview) -> None:
        """The other part of `update`."""
        self._segment.update(block)
        if self._git:
            self._git.update(block)

    def advance(self, count: int) -> None:
        """End an `update`, once both parts have hashed the `count` bytes."""
        end = self.segment_end
        self.position += count
        if self.position == end:
            self._segments.append(self._segment.digest)
            self._segment = SegmentHash(self._like)

    @property
    def segment_prefix(self) -> SegmentDigest:
        """Digest from the start of the segment that holds the byte at `position - 1` up to `position`."""
        ended = self.position and (self.position % self.segment_bytes == 0 or self.position == self.size)
        return self._segments[-1] if ended else self._segment.digest

    @property
    def sha256(self) -> Sha256:
        return Sha256(self._whole.hexdigest())

    @property
    def segments(self) -> tuple[SegmentDigest, ...]:
        return tuple(self._segments)

    def copy(self) -> RunningDigest:
        duplicate = RunningDigest(self.size, segment_bytes=self.segment_bytes, like=self._like)
        duplicate.position = self.position
        duplicate._whole = self._whole.copy()
        duplicate._segment = self._segment.copy()
        duplicate._segments = self._segments.copy()
        duplicate._git = self._git.copy() if self._git else None
        return duplicate

    def mismatch(self, expected: Expected) -> str | None:
        """Describe the digest that differs from the expected one; None if all expected digests match."""
        if expected.sha256 and expected.sha256 != self.sha256:
            return f"its sha256 is {self.sha256}, expected {expected.sha256}"
        if expected.git_sha1 and self._git and expected.git_sha1 != self._git.hexdigest():
            return f"its git sha1 is {self._git.hexdigest()}, expected {expected.git_sha1}"
        return None


class BlockThreads:
    """Read the blocks of an open file, each in four threads at once, so that on enough cores its sha256 alone is the
    limit.

        the calling thread      the sha256 of the whole file, which takes the longest and cannot be divided
        one thread              the digest of the segment, and git's
        one thread              `on_block`, such as the scan of weights
        one thread              reads the next block from the file

    The first three have ended when `read` returns: the memory of a block is reused, and a checkpoint covers what every
    thread has read. On one core they take turns.
    """

    def __init__(self, fd: int, on_block: OnBlock | None = None) -> None:
        self._fd = fd
        self._on_block = on_block
        self._buffer, self._other_buffer = block_buffer(), block_buffer()
        self._ahead: tuple[int, Future[memoryview]] | None = None
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="paddock-block")  # a thread begins with its first call

    def read(self, digest: RunningDigest, end: int, *, ahead_to: int) -> int:
        """Pass the next block of the file to `digest` and to `on_block`; return its length, 0 if the file ends there.

        It ends at `end` at the latest, and at the end of the segment. The bytes up to `ahead_to` may be read before the
        next call asks for them: they must be in the file, and stay as they are. Raises OSError, and what `on_block`
        raises.
        """
        start = digest.position
        if self._ahead and self._ahead[0] == start:
            block = self._ahead[1].result()[: end - start]
            self._buffer, self._other_buffer = self._other_buffer, self._buffer
        else:
            if self._ahead:
                wait([self._ahead[1]])  # until its buffer is free
            block = self._fill(self._buffer, digest, start, end)
        position = start + len(block)
        self._ahead = None
        if block and ahead_to - position >= _MIN_BESIDE_BYTES:
            self._ahead = position, self._pool.submit(self._fill, self._other_buffer, digest, position, ahead_to)
        if block:
            self._digest(digest, block)
        return len(block)

    def _fill(self, buffer: memoryview, digest: RunningDigest, start: int, end: int) -> memoryview:
        segment_end = (start // digest.segment_bytes + 1) * digest.segment_bytes
        count = min(BLOCK_BYTES, end - start, segment_end - start)
        return buffer[: os.preadv(self._fd, [buffer[:count]], start)]

    def _digest(self, digest: RunningDigest, block: memoryview) -> None:
        others: list[Callable[[], object]] = [lambda: digest.hash_parts(block)]
        if on_block := self._on_block:
            others.append(lambda: on_block(digest.position, block))
        if len(block) < _MIN_BESIDE_BYTES:
            for other in others:
                other()
            digest.hash_whole(block)
        else:
            running: list[Future[object]] = [self._pool.submit(other) for other in others]
            try:
                digest.hash_whole(block)
            finally:
                wait(running)
            for one in running:
                one.result()
        digest.advance(len(block))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def block_buffer() -> memoryview:
    """Memory for one block. A page of it is not there before it is used: a short file needs few."""
    return memoryview(mmap.mmap(-1, BLOCK_BYTES))


def digest_for(expected: Expected, *, segment_bytes: int, like: SegmentDigest | None = None) -> RunningDigest:
    """A RunningDigest that computes every digest which `expected` states."""
    with_git = expected.git_sha1 is not None
    return RunningDigest(expected.size, segment_bytes=segment_bytes, with_git=with_git, like=like)


def digest_file(
    fd: int,
    expected: Expected,
    *,
    segment_bytes: int,
    like: SegmentDigest | None = None,
    on_position: Callable[[int], None] = lambda _: None,
    on_block: OnBlock | None = None,
) -> RunningDigest:
    """Hash the first `expected.size` bytes of an open file. If the file is shorter, `position` is where it ended.

    `on_block` is called with each block while it is hashed, in another thread, and `on_position` with the offset after
    it; both may raise.
    """
    digest = digest_for(expected, segment_bytes=segment_bytes, like=like)
    with BlockThreads(fd, on_block) as threads:
        while digest.position < digest.size and threads.read(digest, digest.size, ahead_to=digest.size):
            on_position(digest.position)
    return digest


def verify_file(
    path: Path, expected: Expected, segment_bytes: int, *, on_block: OnBlock | None = None
) -> tuple[Sha256, tuple[SegmentDigest, ...]]:
    """Read a local file, verify it, and return its sha256 and its segment digests.

    `on_block` is called with each block. Raises CorruptFile if its size or a digest differs from the expected one, or
    it is no regular file, and OSError if it cannot be read. A link is followed: a snapshot may have one to a blob.
    """
    try:
        fd = open_regular(path, follow=True)
    except UnusableContent as error:
        raise CorruptFile(f"{path} cannot be read: {error.reason}", cure="fetch it again") from None
    try:
        size = os.fstat(fd).st_size
        if size != expected.size:
            raise CorruptFile(f"{path} has {size} bytes, expected {expected.size}", cure="fetch it again")
        digest = digest_file(fd, expected, segment_bytes=segment_bytes, on_block=on_block)
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
