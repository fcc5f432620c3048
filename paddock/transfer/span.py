"""Read one span of a remote file into memory, with retries: what readers of short ranges share."""

from __future__ import annotations

import threading

from paddock.errors import TransferInterrupted
from paddock.model.source import Source
from paddock.transfer.client import RangeClient
from paddock.transfer.meter import Meter
from paddock.transfer.response import RetryableResponseError
from paddock.transfer.retry_budget import RetryBudget


class SpanReader:
    """Reads spans of one file, from several threads, within one budget of retries. `bytes_read` counts the bytes
    received over the network.

    Nothing is verified. Raises the errors of `paddock.transfer.fetch.fetch` for the network and for refusals, and
    RangesNotSupported where the server sends no ranges. A read that another thread ends with `close` is cancelled.
    """

    def __init__(self, source: Source, *, connections: int, stall_s: float, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._meter = Meter()
        self._retry_budget = RetryBudget(source.label, self._meter, cure="try again later")
        self._label = source.label
        self._closed = threading.Event()
        self._client = RangeClient(source, connections=connections, stall_s=stall_s)

    @property
    def bytes_read(self) -> int:
        return self._meter.transferred_bytes

    def read(self, start: int, end: int, *, whole: bool = False) -> bytes:
        """The bytes from `start` up to `end`; after a failure, continues with the next byte. With `whole`, a server
        without ranges is read from the file's first byte on."""
        received = bytearray()
        while len(received) < end - start:
            try:
                with self._client.open(start + len(received), end, whole=whole) as body:
                    for count, requested in body.chunks(self._chunk_bytes):
                        self._meter.count(count, len(requested))
                        received += requested
            except RetryableResponseError as failure:
                if self._closed.is_set() or self._closed.wait(self._retry_budget.spend(failure)):
                    raise TransferInterrupted.cancelled(f"{self._label} was cancelled") from None
        return bytes(received)

    def close(self) -> None:
        self._closed.set()
        self._client.close()
