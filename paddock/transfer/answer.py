"""What an answer to a range request must be, and its bytes.

An answer is used when it is exactly what was asked for, or the first part of that, and says so. Anything else ends that
try with `TryAgain`: a shifted range, another size, an encoding that nobody asked for, a body that ends early, goes on,
or stalls. No text here holds an address, which may hold a signature.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from types import TracebackType

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

_SLOWEST_BYTES_PER_S = 1024
_LEAST_OF_A_RANGE_BYTES = 64 * 1024
_BUSY_STATUS = frozenset({429, 503})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class TryAgain(Exception):
    """This try failed, the next may not. `busy`: the server wants fewer requests; `retry_after_s`: its own words."""

    def __init__(self, message: str, *, busy: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.busy = busy
        self.retry_after_s = retry_after_s


class RangesIgnored(Exception):
    """The server answers a range with the whole body: it must be asked for that, and read from its start."""


class Body:
    """The bytes of one answer, in order: exactly those that were asked for, or TryAgain on the way."""

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        *,
        skip: int,
        length: int,
        ends_unseen: bool,
        reusable: bool,
        stall_s: float,
    ) -> None:
        self._response = response
        self._skip = skip
        self._left = skip + length
        self._ends_unseen = ends_unseen
        self._reusable = reusable
        self._stall_s = stall_s
        self._waited_s = 0.0
        self._came = 0

    def chunks(self, read_bytes: int) -> Iterator[tuple[int, bytes]]:
        """How many bytes came, at most `read_bytes` at once, and those of them that were asked for: fewer where a
        whole body is passed over.
        """
        while self._left:
            chunk = self._read(min(read_bytes, self._left))
            if not chunk:
                raise TryAgain(f"the answer ended {self._left} bytes early")
            # Without a length, the last bytes count only when the body ends with them: a longer one is another file.
            if len(chunk) == self._left and self._ends_unseen and self._read(1):
                raise TryAgain("the answer is longer than the file")
            self._left -= len(chunk)
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            yield len(chunk), chunk[skipped:] if skipped else chunk

    def _read(self, count: int) -> bytes:
        started = time.monotonic()
        try:
            chunk: bytes = self._response.read1(count, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:  # ValueError: a chunk's length that is no number
            raise TryAgain(sentence(error, self._stall_s)) from None
        self._waited_s += time.monotonic() - started
        self._came += len(chunk)
        if self._waited_s >= self._stall_s:
            if self._came < _SLOWEST_BYTES_PER_S * self._waited_s:
                raise TryAgain(f"{self._came} bytes came in {self._waited_s:.0f} s, which is a stall")
            self._waited_s, self._came = 0.0, 0
        return chunk

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._left or not self._reusable:
            self._response.close()
        self._response.release_conn()


def open_body(
    response: urllib3.BaseHTTPResponse, *, start: int, end: int, size: int, whole: bool, stall_s: float
) -> Body:
    """The body of an answer to a request for `start` up to `end` of a file of `size` bytes.

    With `whole`, the request was for all of it. Raises TryAgain, and RangesIgnored where the answer is a sound one to
    another request.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise TryAgain(f"the answer is encoded with {encoding[:40]!r}, which was not asked for")
    length = _content_length(response)
    if response.status == 206 and not whole:
        came = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(came.strip())
        wanted = f"bytes {start}-{end - 1}/{size}"
        if not match or int(match[1]) != start or match[3] not in {str(size), "*"}:
            raise TryAgain(f"the answer holds {came[:80] or 'no stated range'!r}, expected {wanted!r}")
        last = int(match[2])
        # A server may send less than it was asked for (RFC 9110, 14.2), and the rest is asked for next. Crumbs are no
        # progress.
        if last != end - 1 and not start + _LEAST_OF_A_RANGE_BYTES <= last + 1 < end:
            raise TryAgain(f"the answer holds {came[:80]!r}, expected {wanted!r}")
        end = last + 1
        if length not in {None, end - start}:
            raise TryAgain(f"the answer has {length} bytes, expected {end - start}")
        known = length is not None
        return Body(response, skip=0, length=end - start, ends_unseen=not known, reusable=known, stall_s=stall_s)
    if response.status == 200:
        if length not in {None, size}:
            raise TryAgain(f"the answer is a whole body of {length} bytes, expected {size}")
        if length is None and response.headers.get("Content-Type", "").startswith("text/html"):
            raise TryAgain("the answer is a page of HTML, not the file")
        if not whole and (start, end) != (0, size):
            raise RangesIgnored
        to_end = end == size
        return Body(
            response,
            skip=start,
            length=end - start,
            ends_unseen=to_end and length is None,
            reusable=to_end and length is not None,
            stall_s=stall_s,
        )
    raise TryAgain(
        f"the answer has the status {response.status}",
        busy=response.status in _BUSY_STATUS,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
    )


def sentence(error: Exception, stall_s: float) -> str:
    """What went wrong with a connection, without the address."""
    match error:
        case NewConnectionError():  # before its parent
            return "no connection: the name is unknown, or nothing answers there"
        case ConnectTimeoutError():
            return "no connection in time"
        case ReadTimeoutError():
            return f"nothing came for {stall_s:g} s"
        case SSLError():
            return "the connection is not trusted, or its encryption failed"
        case _:
            return f"the connection broke ({type(error).__name__})"


def _content_length(response: urllib3.BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TryAgain(f"the answer's length is {text[:40]!r}, which is no number")
    return int(text)


def _retry_after_s(text: str | None) -> float | None:
    """Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
