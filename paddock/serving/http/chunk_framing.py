"""Check the framing of a body in chunks (RFC 9112, section 7.1) more strictly than h11.

h11 drops chunk extensions without a look at them, and accepts spaces behind the size of a chunk, and trailers whose
lines end without a carriage return. Servers that read such bytes differently disagree about where the body ends.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")
_SIZE_LINE_BYTES: Final = 18
_FREE_CHUNKS: Final = 1000
_MIN_CHUNK_BYTES: Final = 64
"""Chunks beyond the first thousand must hold as many bytes on average: each costs as much work as a large one."""
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class _Expected(Enum):
    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkFraming:
    """Position in a body in chunks. `problem` says what is wrong with the bytes so far, or is None."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._expected = _Expected.SIZE
        self._line = bytearray()
        self._data_left = 0
        self._chunks = self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the bytes that follow. Those after the end of the body, or after a problem, are passed over."""
        start = 0
        while start < len(data) and self.problem is None and self._expected is not _Expected.NOTHING:
            if self._data_left:
                taken = min(self._data_left, len(data) - start)
                self._data_left -= taken
                start += taken
                continue
            end = data.find(b"\n", start) + 1 or len(data)
            self._line += data[start:end]
            start = end
            if self._line.endswith(b"\n"):
                self.problem = self._problem_of_line()
                self._line.clear()
            elif self._expected is _Expected.SIZE and len(self._line) > _SIZE_LINE_BYTES:
                self.problem = _problem_of_size(bytes(self._line))

    def _problem_of_line(self) -> str | None:
        if not self._line.endswith(b"\r\n"):
            return "a line between the chunks of the body ends without a carriage return"
        line = bytes(self._line[:-2])
        if self._expected is _Expected.END_OF_CHUNK:
            self._expected = _Expected.SIZE
            return "a chunk of the body is longer than its size" if line else None
        if self._expected is _Expected.SIZE:
            return self._begin_chunk(line)
        if not line:
            self._expected = _Expected.NOTHING
            return None
        return "a trailer of the body is not a plain header" if line[0] in b" \t" or _CONTROL.search(line) else None

    def _begin_chunk(self, line: bytes) -> str | None:
        if not _SIZE.fullmatch(line):
            return _problem_of_size(line)
        size = int(line, 16)
        if size == 0:
            self._expected = _Expected.TRAILER
            return None
        self._expected, self._data_left = _Expected.END_OF_CHUNK, size
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS + self._bytes // _MIN_CHUNK_BYTES:
            return "the body consists of too many small chunks"
        self._bytes += size
        return None


def _problem_of_size(line: bytes) -> str:
    if b";" in line:
        return "chunk extensions are not supported"
    return "the size of a chunk of the body is not a hexadecimal number of at most 16 digits"
