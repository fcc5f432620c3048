"""The journal of one fetch: what of the data file is there, each claim with the digest that proves it.

The first line is a JSON object: `schema`, `key` (which bytes), `size`, `segment_bytes`, `boot` (the kernel that the
writer ran on). Each line after it is one of two:

- a *claim*: `end`, and `digest`, that of the bytes from the start of the segment that holds byte `end - 1` up to `end`.
  So claims grow from the start of the file, the last one of a segment is the segment's digest, and a later claim for
  the same end replaces an earlier one.
- a *piece*: `piece`, the offsets where it starts and ends, and `digest`, that of the bytes in between. Workers write
  one for each 256 KiB that they put into the file, wherever that is: with sixteen connections, most of what has come
  lies behind a gap, where no claim reaches.

Nothing is fsynced here, since nothing here is believed: whoever adopts a journal hashes the data again, so that a
power loss, a torn line or a lie costs time and no more. Lines that do not parse are passed over; a header that does
not fit means that there are no claims.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paddock.model.names import SegmentDigest

_SCHEMA = 2
_MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JournalHeader:
    key: str
    size: int
    segment_bytes: int
    boot: str
    schema: int = _SCHEMA

    def same_bytes(self, other: JournalHeader) -> bool:
        return (self.schema, self.key, self.size, self.segment_bytes) == (
            other.schema,
            other.key,
            other.size,
            other.segment_bytes,
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes from `start` up to `end`, and their digest."""

    start: int
    end: int
    digest: SegmentDigest


class Journal:
    """An open journal file. It owns the descriptor, and with it the lock that the staging directory's owner holds.

    Several threads may append.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o644)
        # A caller that loses a staged file on the way to publishing it must not hold the lock against its own next try.
        self._close = weakref.finalize(self, os.close, self.fd)
        self._lock = threading.Lock()
        self.is_empty = True
        """Whether nothing was claimed, and no piece was noted."""

    def header(self) -> JournalHeader | None:
        lines = self._lines()
        fields = _parse(lines[0]) if lines else {}
        try:
            return JournalHeader(**fields)  # type: ignore[arg-type]  # a header with other types is unequal to every real one
        except TypeError:
            return None

    def claims(self, header: JournalHeader) -> dict[int, SegmentDigest]:
        """End and digest of each claim, in order of the ends; none where the journal is not about `header`'s bytes."""
        found = self.header()
        if found is None or not found.same_bytes(header):
            return {}
        claims: dict[int, SegmentDigest] = {}
        for line in self._lines()[1:]:
            fields = _parse(line)
            end, digest = fields.get("end"), fields.get("digest")
            if isinstance(end, int) and 0 < end <= header.size and isinstance(digest, str):
                claims[end] = SegmentDigest(digest)
        return dict(sorted(claims.items()))

    def pieces(self, header: JournalHeader) -> list[Piece]:
        """The pieces, in order of their starts; none where the journal is not about `header`'s bytes."""
        found = self.header()
        if found is None or not found.same_bytes(header):
            return []
        pieces = [piece for line in self._lines()[1:] if (piece := _as_piece(_parse(line), header.size))]
        return sorted(pieces, key=lambda piece: piece.start)

    def start(self, header: JournalHeader, claims: dict[int, SegmentDigest], pieces: Sequence[Piece] = ()) -> None:
        """For an empty journal: write the header, and the claims and pieces of an earlier one."""
        lines = [json.dumps(asdict(header))]
        lines += [_claim(end, digest) for end, digest in claims.items()]
        lines += [_piece(piece) for piece in pieces]
        self._append("\n".join(lines) + "\n")
        self.is_empty = not (claims or pieces)

    def append(self, end: int, digest: SegmentDigest) -> None:
        self._append(_claim(end, digest) + "\n")
        self.is_empty = False

    def append_piece(self, piece: Piece) -> None:
        """After `close`, nothing: a worker that could not be waited for may come this late."""
        self._append(_piece(piece) + "\n")
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

    def _lines(self) -> list[bytes]:
        size = min(os.fstat(self.fd).st_size, _MOST_BYTES)
        parts: list[bytes] = []
        offset = 0
        while offset < size and (part := os.pread(self.fd, size - offset, offset)):
            parts.append(part)
            offset += len(part)
        lines = b"".join(parts).split(b"\n")
        return lines[:-1]  # what follows the last line's end is torn


def _claim(end: int, digest: SegmentDigest) -> str:
    return json.dumps({"end": end, "digest": digest})


def _piece(piece: Piece) -> str:
    return json.dumps({"piece": [piece.start, piece.end], "digest": piece.digest})


def _as_piece(fields: dict[str, object], size: int) -> Piece | None:
    match fields:
        case {"piece": [int(start), int(end)], "digest": str(digest)} if 0 <= start < end <= size:
            return Piece(start, end, SegmentDigest(digest))
        case _:
            return None


def _parse(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
