"""The weights of a GGUF whose bytes pass by once, its header first: as it is fetched, or hashed.

The header is read from the bytes that have come, as soon as they are enough. What the header says is judged elsewhere:
of a file whose header cannot be read nothing is said here.
"""

from __future__ import annotations

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf.reader import read_header
from paddock.gguf.weights import WeightsScan
from paddock.model.finding import Finding

_FIRST_TRY_BYTES = 1 << 20


class StreamingWeightsScan:
    """`take` is given the bytes of a file of `size` bytes; `findings` tells when all have passed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._head: bytearray | None = bytearray()
        self._try_at = min(size, _FIRST_TRY_BYTES)
        self._scan: WeightsScan | None = None
        self._position = 0

    def take(self, offset: int, block: memoryview) -> None:
        """The next bytes; or, where they are no next ones, those from which on others passed by mistake."""
        if offset != self._position:
            self._rewind(offset)
        self._position += len(block)
        if self._scan:
            self._scan.take(offset, block)
        elif self._head is not None:
            self._head += block
            if len(self._head) >= self._try_at:
                self._read_head()

    def findings(self) -> tuple[Finding, ...] | None:
        """None where nothing can be said: the header cannot be read, or bytes passed a second time from somewhere in
        the middle."""
        return tuple(self._scan.findings()) if self._scan and self._position == self._size else None

    def _rewind(self, offset: int) -> None:
        self._position = offset
        self._scan, self._head = None, bytearray() if offset == 0 else None
        self._try_at = min(self._size, _FIRST_TRY_BYTES)

    def _read_head(self) -> None:
        head = bytes(self._head or b"")
        try:
            header = read_header(_Head(head, self._size))
        except _NotYetError:
            self._try_at = min(self._size, 2 * len(head))
            return
        except (NotGguf, MalformedGguf):
            self._head = None
            return
        self._head, self._scan = None, WeightsScan(header)
        self._scan.take(0, memoryview(head))


class _NotYetError(Exception):
    """Bytes that have not come are wanted."""


class _Head:
    """A file of which only the first bytes are there."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        if offset >= len(self._head) < self.size:
            raise _NotYetError
        return self._head[offset : offset + length]
