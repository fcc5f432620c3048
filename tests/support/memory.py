"""A byte source in memory that counts the bytes read. A `size` beyond the data adds a hole after it."""

from __future__ import annotations


class MemorySource:
    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data = data
        self.size = len(data) if size is None else size
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        piece = self.data[offset : offset + length]
        self.bytes_read += len(piece)
        return piece
