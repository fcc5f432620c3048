"""Journal of one download: which parts of the data file are written, each with the digest that proves it.

The first line is a JSON object: `schema`, `key` (the name of the bytes), `size`, `segment_bytes`, `boot` (the boot id
of the kernel that the writer ran on). Each line after it is one of two:

- a *checkpoint*: `end`, and `digest`, that of the bytes from the start of the segment that holds byte `end - 1` up to
  `end` (exclusive). So checkpoints grow from the start of the file, the last one of a segment is the segment's digest,
  and a later checkpoint for the same end replaces an earlier one.
- a *piece*: `piece`, the offsets of its start and end (exclusive), and `digest`, that of the bytes in between. One is
  written for each 256 KiB or more that a worker wrote where no checkpoint reaches yet, and for less at the end of a
  request: with sixteen connections most of the received bytes lie behind a gap.

The journal is neither fsynced nor trusted: the process that adopts it hashes the data again, so that a power loss, a
torn line or a wrong one costs time and nothing else. Lines that do not parse are skipped; a header that does not match
means that there are no checkpoints.
"""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from paddock.model.names import SegmentDigest
from paddock.transfer.preallocation import UNDER_UMASK
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular_to_append, read_descriptor
from paddock.untrusted.json_text import parse_object

_SCHEMA = 2
_MAX_BYTES = 256 * 1024 * 1024
_MAX_LINES = 2_000_000  # those of a file of 500 GB
_MAX_LINE_BYTES = 4096
_DIGEST = rb'"digest": "([ -!#-\[\]-~]{1,200})"'
_CHECKPOINT = re.compile(rb'\{"end": (\d{1,18}), ' + _DIGEST + rb"\}")
_PIECE = re.compile(rb'\{"piece": \[(\d{1,18}), (\d{1,18})\], ' + _DIGEST + rb"\}")


@dataclass(frozen=True, slots=True)
class JournalHeader:
    key: str
    size: int
    segment_bytes: int
    boot: str
    schema: int = _SCHEMA

    def describes_same_bytes(self, other: JournalHeader) -> bool:
        return (self.schema, self.key, self.size, self.segment_bytes) == (
            other.schema,
            other.key,
            other.size,
            other.segment_bytes,
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes from `start` up to `end` (exclusive), and their digest."""

    start: int
    end: int
    digest: SegmentDigest


class Journal:
    """An open journal file, for several threads.

    It owns the descriptor, and with it the lock that the owner of the staging directory holds.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.fd = open_regular_to_append(path, mode=UNDER_UMASK, create=create, exclusive=create)
        # A caller that drops a staged file without publishing it must not keep the lock: its next try needs it.
        self._close = weakref.finalize(self, os.close, self.fd)
        self._lock = threading.Lock()
        self.is_empty = True
        """Whether it has no checkpoint and no piece."""

    def header(self) -> JournalHeader | None:
        line = next(self._lines(), b"")
        try:
            fields = parse_object(line, max_bytes=_MAX_LINE_BYTES)
            return JournalHeader(**fields)  # a header with other types equals no real one
        except (UnusableContent, TypeError):
            return None

    def checkpoints(self, header: JournalHeader) -> dict[int, SegmentDigest]:
        """Digest of each checkpoint by its end, in order; empty if the journal describes other bytes than `header`."""
        found = self.header()
        if found is None or not found.describes_same_bytes(header):
            return {}
        checkpoints: dict[int, SegmentDigest] = {}
        for match in self._matches(_CHECKPOINT):
            end = int(match[1])
            if 0 < end <= header.size:
                checkpoints[end] = SegmentDigest(match[2].decode())
        return dict(sorted(checkpoints.items()))

    def pieces(self, header: JournalHeader) -> list[Piece]:
        """The pieces in order of their starts; empty if the journal describes other bytes than `header`."""
        found = self.header()
        if found is None or not found.describes_same_bytes(header):
            return []
        pieces = []
        for match in self._matches(_PIECE):
            start, end = int(match[1]), int(match[2])
            if start < end <= header.size:
                pieces.append(Piece(start, end, SegmentDigest(match[3].decode())))
        return sorted(pieces, key=lambda piece: piece.start)

    def start(self, header: JournalHeader, checkpoints: dict[int, SegmentDigest], pieces: Sequence[Piece] = ()) -> None:
        """Write the header, and the checkpoints and pieces of an earlier journal, into an empty one."""
        self._append(json.dumps(asdict(header)) + "\n")
        self.add(checkpoints, pieces)

    def add(self, checkpoints: dict[int, SegmentDigest], pieces: Sequence[Piece]) -> None:
        """Add the checkpoints and pieces of an earlier journal."""
        lines = [_checkpoint_line(end, digest) for end, digest in checkpoints.items()]
        lines += [_piece_line(piece) for piece in pieces]
        self._append("".join(f"{line}\n" for line in lines))
        self.is_empty = self.is_empty and not lines

    def add_checkpoint(self, end: int, digest: SegmentDigest) -> None:
        self._append(_checkpoint_line(end, digest) + "\n")
        self.is_empty = False

    def add_piece(self, piece: Piece) -> None:
        """Add a piece. Ignored after `close`."""
        self._append(_piece_line(piece) + "\n")
        self.is_empty = False

    def close(self) -> None:
        with self._lock:
            self._close()
            self.fd = -1

    def _append(self, text: str) -> None:
        data = text.encode()
        with self._lock:
            while data and self.fd >= 0:
                data = data[os.write(self.fd, data) :]

    def _lines(self) -> Iterator[bytes]:
        """The lines, without what follows the last newline, which is torn."""
        lines = BytesIO(read_descriptor(self.fd, max_bytes=_MAX_BYTES))
        return (line[:-1] for line in islice(lines, _MAX_LINES) if line.endswith(b"\n"))

    def _matches(self, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
        """The lines after the header that are of one kind."""
        return filter(None, map(pattern.fullmatch, islice(self._lines(), 1, None)))


def _checkpoint_line(end: int, digest: SegmentDigest) -> str:
    return json.dumps({"end": end, "digest": digest})


def _piece_line(piece: Piece) -> str:
    return json.dumps({"piece": [piece.start, piece.end], "digest": piece.digest})
