"""Read the body of an HTTP answer, with bounds on its size after decompression and on the time for all of it.

A server that sends one byte before each read times out never ends; so the deadline is that of the whole body. It is
looked at after every chunk: pass an iterator that yields bytes as they arrive, and never one that gathers a fixed
number of them. A single read is bounded by the client's own timeout.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from paddock.untrusted.content import UnusableContent

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_BLOCK_BYTES: Final = 64 * 1024


def read_body(
    chunks: Iterable[bytes],
    *,
    max_bytes: int,
    deadline_s: float,
    encoding: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Read a whole body of at most `max_bytes`. Raises UnusableContent for a larger or slower one.

    `chunks` are the bytes as they were sent, and `encoding` is their Content-Encoding: gzip, deflate, or none.
    """
    ends_at = clock() + deadline_s
    received = bytearray()
    for part in _decoded(_in_time(chunks, ends_at, deadline_s, clock), encoding):
        received += part
        if len(received) > max_bytes:
            raise UnusableContent(f"it is larger than {max_bytes} bytes")
    return bytes(received)


def _in_time(chunks: Iterable[bytes], ends_at: float, deadline_s: float, clock: Callable[[], float]) -> Iterator[bytes]:
    for chunk in chunks:
        if clock() > ends_at:
            raise UnusableContent(f"it was not complete after {deadline_s:g} s")
        yield chunk


def _decoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the decoded bytes in small blocks, so that a few bytes cannot become many at once."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        yield from chunks
        return
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise UnusableContent(f"it has the encoding {name[:40]!r}, and gzip, deflate or none was expected")
    decoder = zlib.decompressobj(zlib.MAX_WBITS if name == "deflate" else _GZIP_WINDOW)
    is_empty = True
    try:
        for chunk in chunks:
            is_empty = is_empty and not chunk
            pending = chunk
            while not decoder.eof and (part := decoder.decompress(pending, _BLOCK_BYTES)):
                yield part
                pending = decoder.unconsumed_tail
    except zlib.error as error:
        raise UnusableContent(f"it cannot be decompressed: {error}") from None
    if not decoder.eof and not is_empty:
        raise UnusableContent("it ends before its compressed data do")
