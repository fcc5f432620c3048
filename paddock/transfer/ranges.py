"""Read small ranges of a remote file, so that a GGUF header can be parsed without a download.

Headers are read from the start onwards, so the *head*, a contiguous prefix of the file, is kept and extended by each
read. A read far behind it (a tensor's data) fetches a block of its own, and only the last such block is kept.
Nothing is verified, since there is no digest of a part: a decision that is based on these bytes has to be made again
once the whole file was verified.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from paddock.model.source import Source

_MAX_STEP_BYTES = 16 * 1024 * 1024
_MAX_HEAD_BYTES = 128 * 1024 * 1024
_READ_BYTES = 256 * 1024


class RangeReader:
    """Random access to a remote file by range requests. For one thread.

    A request is for at least `block_bytes`; a caller that reads on in small steps does its own read-ahead.
    `head` are the first bytes of the file where they are known. `bytes_read` counts the bytes received over the
    network. Raises the errors of `fetch` for the network and for refusals.
    """

    def __init__(
        self, source: Source, *, head: bytes = b"", block_bytes: int = 64 * 1024, stall_s: float = 30.0
    ) -> None:
        from paddock.transfer.span import SpanReader  # the HTTP client, which a local file does not need

        self._size = source.expected.size
        self._block_bytes = block_bytes
        self._head = bytearray(head)
        self._last_block = (0, b"")
        self._whole = False
        self._spans = SpanReader(source, connections=1, stall_s=stall_s, chunk_bytes=_READ_BYTES)

    @property
    def size(self) -> int:
        return self._size

    @property
    def bytes_read(self) -> int:
        return self._spans.bytes_read

    @property
    def head(self) -> bytes:
        """The first bytes of the file, as far as they are known."""
        return bytes(self._head)

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on: `length` of them, or fewer at the end of the file. Raises ValueError if one of
        them is negative."""
        if offset < 0 or length < 0:
            raise ValueError(f"{length} bytes at offset {offset} is not a range of a file")
        end = min(self._size, offset + length)
        if end <= offset:
            return b""
        if end <= len(self._head) + _MAX_STEP_BYTES and end <= _MAX_HEAD_BYTES:
            self._extend_head(end)
            return bytes(memoryview(self._head)[offset:end])
        start, block = self._last_block
        if not start <= offset <= end <= start + len(block):
            start, block = offset, self._fetch(offset, min(self._size, max(end, offset + self._block_bytes)))
            self._last_block = start, block
        return block[offset - start : end - start]

    def close(self) -> None:
        self._spans.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _extend_head(self, end: int) -> None:
        start = len(self._head)
        if end <= start:
            return
        self._head += self._fetch(start, min(self._size, max(end, start + self._block_bytes)))

    def _fetch(self, start: int, end: int) -> bytes:
        from paddock.transfer.response import RangesNotSupported

        try:
            return self._spans.read(start, end, whole=self._whole)
        except RangesNotSupported:
            self._whole = True
            return self._spans.read(start, end, whole=True)
