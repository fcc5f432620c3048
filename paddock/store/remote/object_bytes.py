"""Read an object in order, from any offset, for a comparison with its digests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from paddock.model.source import Source
from paddock.store.blob_check import Bytes
from paddock.transfer.client import RangeClient
from paddock.transfer.meter import Meter
from paddock.transfer.response import RangesNotSupported, RetryableResponseError
from paddock.transfer.retry_budget import RetryBudget

_SPAN_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class ObjectBytes(Bytes):
    """The bytes of a source, requested over one connection, as they are needed. Raises the errors of a download."""

    def __init__(self, source: Source, *, stall_s: float) -> None:
        self.size = source.expected.size
        self._client = RangeClient(source, connections=1, stall_s=stall_s)
        self._meter = Meter()
        self._retry_budget = RetryBudget(source.label, self._meter, cure="try again later")
        self._pause = threading.Event()
        self._body = ExitStack()
        self._memory = memoryview(bytearray(_CHUNK_BYTES))
        self._chunks: Iterator[tuple[int, bytes | memoryview]] | None = None
        self._left: bytes | memoryview = b""
        self._position = 0
        self._whole = False

    def close(self) -> None:
        self._body.close()
        self._client.abort()
        self._client.close()

    def begin_segment(self, start: int, end: int) -> Callable[[], None]:  # noqa: ARG002 - spans are requested
        return lambda: None

    def read_into(self, buffer: memoryview, offset: int) -> int:
        while offset < self.size:
            try:
                if self._chunks is None or self._position != offset:
                    self._open(offset)
                if not self._left:
                    self._left = self._next_chunk()
            except RangesNotSupported:
                self._whole = True
                continue
            except RetryableResponseError as failure:
                self._chunks = None
                self._pause.wait(self._retry_budget.spend(failure))
                continue
            count = min(len(buffer), len(self._left))
            buffer[:count] = self._left[:count]
            self._left = self._left[count:]
            self._position += count
            if count:
                return count
            self._chunks = None  # the end of a span
        return 0

    def _open(self, offset: int) -> None:
        self._body.close()
        self._chunks, self._left, self._position = None, b"", offset
        end = self.size if self._whole else min(self.size, offset + _SPAN_BYTES)
        body = self._body.enter_context(self._client.open(offset, end, whole=self._whole))
        self._chunks = body.chunks_in(self._memory)

    def _next_chunk(self) -> bytes | memoryview:
        """The next bytes; empty at the end of the span."""
        for count, requested in self._chunks or ():
            self._meter.count(count, len(requested))
            if requested:
                return requested
        return b""
