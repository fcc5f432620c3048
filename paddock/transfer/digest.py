"""Digests of a file's bytes: of the whole, and of each *segment* (a fixed length of the file; the last one may be
shorter).

The whole has its sha256, by which the Hub and the stores name it. Nobody else names a segment, so that its digest may
be one that costs less and is as safe: BLAKE3, a fifth of a sha256 (https://github.com/BLAKE3-team/BLAKE3). Both leave
the interpreter's lock alone for blocks as large as these, so that hashing runs beside the threads that move bytes.
What a wrong digest leads to is the caller's business.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from paddock.errors import CorruptFile
from paddock.model.names import SegmentDigest, Sha256
from paddock.model.source import Expected

BLOCK_BYTES = 4 * 1024 * 1024
_BLAKE3 = "blake3:"

OnBlock = Callable[[int, memoryview], None]
"""Who is given each byte of a file on its way to the digest: the offset of a block, and the block, whose memory is used
again afterwards."""


def same_kind(one: Sequence[SegmentDigest], other: Sequence[SegmentDigest]) -> bool:
    """Whether the digests of two lists can be compared; those of none cannot."""
    return bool(one and other) and len({digest.startswith(_BLAKE3) for digest in (*one, *other)}) == 1


class SegmentHash:
    """The digest of a segment whose bytes come in order: BLAKE3, or a sha256 where `like` is one."""

    def __init__(self, like: SegmentDigest | None = None) -> None:
        self._kind = _BLAKE3 if like is None or like.startswith(_BLAKE3) else ""
        self._hash = blake3() if self._kind else hashlib.sha256()

    def update(self, block: bytes | memoryview) -> None:
        self._hash.update(block)

    @property
    def digest(self) -> SegmentDigest:
        return SegmentDigest(self._kind + self._hash.hexdigest())

    def copy(self) -> SegmentHash:
        twin = copy.copy(self)
        twin._hash = self._hash.copy()
        return twin


class RunningDigest:
    """The digests of a file's first `position` bytes: of all of them, of each whole segment, and of the one begun.

    Those of the segments are of the kind that `like` is, to be compared with what a manifest says.
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
        # git's own name of a blob, no measure of safety: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if with_git else None

    @property
    def segment_end(self) -> int:
        """Where the segment that `position` is in ends."""
        return min(self.size, (self.position // self.segment_bytes + 1) * self.segment_bytes)

    def update(self, block: memoryview) -> None:
        """Take the next bytes. They must not reach over `segment_end`."""
        end = self.segment_end
        self._whole.update(block)
        self._segment.update(block)
        if self._git:
            self._git.update(block)
        self.position += len(block)
        if self.position == end:
            self._segments.append(self._segment.digest)
            self._segment = SegmentHash(self._like)

    @property
    def segment_prefix(self) -> SegmentDigest:
        """The digest from the start of the last segment with a byte before `position` to there."""
        ended = self.position and (self.position % self.segment_bytes == 0 or self.position == self.size)
        return self._segments[-1] if ended else self._segment.digest

    @property
    def sha256(self) -> Sha256:
        return Sha256(self._whole.hexdigest())

    @property
    def segments(self) -> tuple[SegmentDigest, ...]:
        return tuple(self._segments)

    def copy(self) -> RunningDigest:
        twin = RunningDigest(self.size, segment_bytes=self.segment_bytes, like=self._like)
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


def digest_for(expected: Expected, *, segment_bytes: int, like: SegmentDigest | None = None) -> RunningDigest:
    with_git = expected.git_sha1 is not None
    return RunningDigest(expected.size, segment_bytes=segment_bytes, with_git=with_git, like=like)


def digest_file(
    fd: int,
    expected: Expected,
    *,
    segment_bytes: int,
    like: SegmentDigest | None = None,
    tick: Callable[[int], None] = lambda _: None,
    tap: OnBlock | None = None,
) -> RunningDigest:
    """The digests of the first `expected.size` bytes of an open file. A file that ends early leaves `position` where
    it ended.

    `tap` is given each block before it is hashed; `tick` is told the position after it, and may raise.
    """
    digest = digest_for(expected, segment_bytes=segment_bytes, like=like)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while digest.position < digest.size:
        block = buffer[: min(BLOCK_BYTES, digest.segment_end - digest.position)]
        count = os.preadv(fd, [block], digest.position)
        if not count:
            break
        if tap:
            tap(digest.position, block[:count])
        digest.update(block[:count])
        tick(digest.position)
    return digest


def verify_file(
    path: Path, expected: Expected, segment_bytes: int, *, tap: OnBlock | None = None
) -> tuple[Sha256, tuple[SegmentDigest, ...]]:
    """The sha256 of a local file and the digests of its segments, read from the disk; `tap` is given each block.

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
