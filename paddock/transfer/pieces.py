"""Pieces: what landed in the file wherever it is, so that the next process fetches none of it again.

A claim of the reader ends at the first gap. With several connections most of what has come lies behind that, and up to
a window of it would be lost when the transfer ends early. So each worker notes in the journal what it wrote, with a
digest of its own, and the next process takes over the pieces whose digest is right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from paddock.transfer.digest import SegmentHash
from paddock.transfer.journal import Journal, Piece

PIECE_BYTES = 256 * 1024
"""What a worker that is killed may lose of what it wrote, and one read on top."""


class PieceWriter:
    """Notes the bytes that one worker writes from `start` on. For one thread."""

    def __init__(self, journal: Journal, start: int) -> None:
        self._journal = journal
        self._start = self._end = start
        self._hash = SegmentHash()

    def add(self, block: bytes) -> None:
        """Take the next bytes, which are in the file."""
        self._hash.update(block)
        self._end += len(block)
        if self._end - self._start >= PIECE_BYTES:
            self.end()

    def end(self) -> None:
        """Note what was not noted yet."""
        if self._end > self._start:
            self._journal.append_piece(Piece(self._start, self._end, self._hash.digest))
            self._start, self._hash = self._end, SegmentHash()


def sound_pieces(
    fd: int, pieces: Sequence[Piece], *, behind: int, block: memoryview, tick: Callable[[], None]
) -> list[tuple[int, int]]:
    """The pieces of an open file whose digest is right, as (start, end): in order, merged, and without what is before
    `behind`. `block` is memory to read into; `tick` is called for each piece, and may raise."""
    found: list[tuple[int, int]] = []
    end = behind
    for piece in sorted(pieces, key=lambda piece: piece.start):
        tick()
        if piece.end <= end or not _is_sound(fd, piece, block):
            continue
        start = max(piece.start, end)
        if found and found[-1][1] == start:
            start = found.pop()[0]
        end = piece.end
        found.append((start, end))
    return found


def _is_sound(fd: int, piece: Piece, block: memoryview) -> bool:
    digest, position = SegmentHash(piece.digest), piece.start
    while position < piece.end:
        count = os.preadv(fd, [block[: min(len(block), piece.end - position)]], position)
        if not count:
            return False
        digest.update(block[:count])
        position += count
    return digest.digest == piece.digest
