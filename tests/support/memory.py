"""Bytes in memory as a source of ranges, which counts what is read of it."""

from __future__ import annotations


class Memory:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        found = self.data[offset : offset + length]
        self.bytes_read += len(found)
        return found
