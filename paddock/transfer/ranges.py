"""Small random access to a remote file: enough to read a GGUF's header from range requests alone.

Headers are read from the start onwards, so the *head*, the bytes from 0 without a gap, is kept and grows by what is
read. A read far behind it (a tensor's data) gets a block of its own, and only the last such block is kept.
Nothing is verified here: there is no digest of a part. Whoever decides by these bytes decides again when the whole
file was verified.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from paddock.model.source import Source
from paddock.transfer.answer import RangesIgnored, TryAgain
from paddock.transfer.client import Client
from paddock.transfer.limiter import Meter, RetryBudget

_LARGEST_STEP_BYTES = 16 * 1024 * 1024
_LARGEST_HEAD_BYTES = 128 * 1024 * 1024
_READ_BYTES = 256 * 1024


class RangeReader:
    """A remote file that is read by ranges; `read_at` gives fewer bytes only at its end. For one thread.

    A request is for at least `block_bytes`. Who reads on in small steps looks ahead itself.

    `bytes_read` counts what came over the network. Raises what `fetch` raises for the network and for refusals.
    """

    def __init__(self, source: Source, *, block_bytes: int = 64 * 1024, stall_s: float = 30.0) -> None:
        self._size = source.expected.size
        self._block_bytes = block_bytes
        self._head = bytearray()
        self._elsewhere = (0, b"")
        self._whole = False
        self._meter = Meter()
        self._patience = RetryBudget(source.label, self._meter, cure="try again later")
        self._pause = threading.Event()
        self._client = Client(source, connections=1, stall_s=stall_s)

    @property
    def size(self) -> int:
        return self._size

    @property
    def bytes_read(self) -> int:
        return self._meter.transferred_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"a range of {length} bytes at {offset} is none")
        end = min(self._size, offset + length)
        if end <= offset:
            return b""
        if end <= len(self._head) + _LARGEST_STEP_BYTES and end <= _LARGEST_HEAD_BYTES:
            self._grow_head(end)
            return bytes(memoryview(self._head)[offset:end])
        start, block = self._elsewhere
        if not start <= offset <= end <= start + len(block):
            start, block = offset, self._fetch(offset, min(self._size, max(end, offset + self._block_bytes)))
            self._elsewhere = start, block
        return block[offset - start : end - start]

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grow_head(self, end: int) -> None:
        have = len(self._head)
        if end <= have:
            return
        self._head += self._fetch(have, min(self._size, max(end, have + self._block_bytes)))

    def _fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`; a try that breaks off is continued from there."""
        came = bytearray()
        while len(came) < end - start:
            try:
                with self._client.open(start + len(came), end, whole=self._whole) as body:
                    for count, wanted in body.chunks(_READ_BYTES):
                        self._meter.count(count, len(wanted))
                        came += wanted
            except RangesIgnored:
                self._whole = True
            except TryAgain as failure:
                self._pause.wait(self._patience.failed(failure))
        return bytes(came)
