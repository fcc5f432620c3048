"""Check the weights of a GGUF file while it is streamed once from its start, as during a download or while hashing.

The header is parsed as soon as enough bytes have arrived; then the bytes go to `WeightsScan`. The header itself is
checked elsewhere: for a file with an unreadable header, this module reports nothing.
"""

from __future__ import annotations

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf.reader import read_header
from paddock.gguf.weights import WeightsScan
from paddock.model.finding import Finding

_FIRST_ATTEMPT_BYTES = 1 << 20


class StreamingWeightsScan:
    """Scan the weights of a file of `size` bytes. Call `feed` with the file's bytes in order, then `findings`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._head: bytearray | None = bytearray()
        self._next_attempt_bytes = min(size, _FIRST_ATTEMPT_BYTES)
        self._scan: WeightsScan | None = None
        self._position = 0

    def feed(self, offset: int, block: memoryview) -> None:
        """Process the next bytes of the file.

        An `offset` that does not continue the previous call means that the stream restarts there, because the bytes
        from there on were wrong.
        """
        if offset != self._position:
            self._rewind(offset)
        self._position += len(block)
        if self._scan:
            self._scan.feed(offset, block)
        elif self._head is not None:
            self._head += block
            if len(self._head) >= self._next_attempt_bytes:
                self._parse_header()

    def findings(self) -> tuple[Finding, ...] | None:
        """Return the findings after the whole file was fed.

        Returns None if the weights could not be checked: the header is unreadable, the file was not fed to its end, or
        the stream restarted in the middle.
        """
        return tuple(self._scan.findings()) if self._scan and self._position == self._size else None

    def _rewind(self, offset: int) -> None:
        self._position = offset
        self._scan, self._head = None, bytearray() if offset == 0 else None
        self._next_attempt_bytes = min(self._size, _FIRST_ATTEMPT_BYTES)

    def _parse_header(self) -> None:
        head = bytes(self._head or b"")
        try:
            header = read_header(_PartialSource(head, self._size))
        except _MoreBytesNeededError:
            self._next_attempt_bytes = min(self._size, 2 * len(head))
            return
        except (NotGguf, MalformedGguf):
            self._head = None
            return
        self._head, self._scan = None, WeightsScan(header)
        self._scan.feed(0, memoryview(head))


class _MoreBytesNeededError(Exception):
    """The header parser needs bytes that have not arrived yet."""


class _PartialSource:
    """A `ByteSource` of which only the first bytes have arrived."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        if offset >= len(self._head) < self.size:
            raise _MoreBytesNeededError
        return self._head[offset : offset + length]
