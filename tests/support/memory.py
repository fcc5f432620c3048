"""Bytes in memory as a source of ranges, which counts what is read of it; with a `size` beyond them, a hole follows."""

from __future__ import annotations


class Memory:
    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data = data
        self.size = len(data) if size is None else size
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        found = self.data[offset : offset + length]
        self.bytes_read += len(found)
        return found
