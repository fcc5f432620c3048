"""Record and verify the parts of a partial download that were written out of order, with gaps between them.

Such a part is a *piece*. A checkpoint ends at the first gap. With several connections most of the received bytes lie
behind it, and up to a window of them would be lost when a transfer ends early. So the journal records what was written
there, with a digest, and the next process keeps the pieces whose digest matches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from paddock.model.names import SegmentDigest
from paddock.transfer.digest import SegmentHash
from paddock.transfer.journal import Journal, Piece

PIECE_BYTES = 256 * 1024
"""The most that a kill loses of the bytes that one connection wrote, in addition to one read."""


class PieceRecorder:
    """Records the bytes that are written from `start` on. For one thread."""

    def __init__(self, journal: Journal, start: int) -> None:
        self._journal = journal
        self._start = self._end = start
        self._hash = SegmentHash()

    def add(self, block: bytes | memoryview) -> None:
        """Add the next bytes, which are already in the file."""
        self._hash.update(block)
        self._end += len(block)
        if self._end - self._start >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Record the bytes since the last piece, however few."""
        if self._end > self._start:
            self._journal.add_piece(Piece(self._start, self._end, self._hash.digest))
            self._start, self._hash = self._end, SegmentHash()


def read_piece(fd: int, start: int, end: int, buffer: memoryview) -> Piece | None:
    """The piece of an open file from `start` up to `end` (exclusive); None if the file ends before. Raises OSError."""
    digest = _read(fd, start, end, SegmentHash(), buffer)
    return Piece(start, end, digest) if digest else None


def verified_pieces(
    fd: int, pieces: Sequence[Piece], *, after: int, buffer: memoryview, check_cancelled: Callable[[], None]
) -> list[tuple[int, int]]:
    """The pieces of an open file whose digest matches, as (start, end): in order, merged, and cut to what lies after
    the offset `after`. `check_cancelled` is called for each piece, and may raise."""
    verified: list[tuple[int, int]] = []
    end = after
    for piece in sorted(pieces, key=lambda piece: piece.start):
        check_cancelled()
        if piece.end <= end or not _matches(fd, piece, buffer):
            continue
        start = max(piece.start, end)
        if verified and verified[-1][1] == start:
            start = verified.pop()[0]
        end = piece.end
        verified.append((start, end))
    return verified


def _matches(fd: int, piece: Piece, buffer: memoryview) -> bool:
    return _read(fd, piece.start, piece.end, SegmentHash(piece.digest), buffer) == piece.digest


def _read(fd: int, start: int, end: int, digest: SegmentHash, buffer: memoryview) -> SegmentDigest | None:
    """The digest of the bytes from `start` up to `end` (exclusive); None if the file ends before."""
    while start < end:
        count = os.preadv(fd, [buffer[: min(len(buffer), end - start)]], start)
        if not count:
            return None
        digest.update(buffer[:count])
        start += count
    return digest.digest
