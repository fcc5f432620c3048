"""Read short ranges of a remote file, many at a time, to compare them with bytes that are here already."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from paddock.errors import TransferRefused
from paddock.model.source import Source
from paddock.transfer.response import RangesNotSupported
from paddock.transfer.span import SpanReader

_CONNECTIONS = 8
_READ_BYTES = 64 * 1024


class SampleReader:
    """Reads ranges of one file over several connections. `bytes_read` counts the bytes received over the network.

    Nothing is verified: a sample is only a reason to try. Raises the errors of `paddock.transfer.fetch.fetch` for the
    network and for refusals, and TransferRefused where the server sends no ranges.
    """

    def __init__(self, source: Source, *, connections: int = _CONNECTIONS, stall_s: float = 30.0) -> None:
        self._connections = max(1, min(connections, _CONNECTIONS))
        self._label = source.label
        self._spans = SpanReader(source, connections=self._connections, stall_s=stall_s, chunk_bytes=_READ_BYTES)

    @property
    def bytes_read(self) -> int:
        return self._spans.bytes_read

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each span (start, end), in the order of `spans`."""
        with ThreadPoolExecutor(self._connections, thread_name_prefix="paddock-sample") as pool:
            return list(pool.map(self._read, spans))

    def close(self) -> None:
        self._spans.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, span: tuple[int, int]) -> bytes:
        try:
            return self._spans.read(*span)
        except RangesNotSupported:
            raise TransferRefused(
                f"{self._label}: its server sends no ranges", cure="the whole file is fetched instead"
            ) from None
