"""Validate the response to a range request and stream its body.

A response is used only if it holds exactly the requested range, or a prefix of that range that its headers declare.
Anything else ends the attempt with `RetryableResponseError`: a shifted range, a different file size, an unrequested
content encoding, or a body that is too short, too long, or stalled. Error messages never contain the URL, since a
signed URL is a secret.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TypeVar

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from paddock.transfer.connections import DirectResponse

_MIN_BYTES_PER_S = 1024
_MIN_PARTIAL_RANGE_BYTES = 64 * 1024
_BUSY_STATUS = frozenset({429, 503})
_NO_ANSWER_STATUS = frozenset({407, 408, 429})  # a proxy's or a gateway's own
_Chunk = TypeVar("_Chunk", bytes, memoryview)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class RetryableResponseError(Exception):
    """One request failed; the next may succeed.

    `busy`: the server wants fewer parallel requests. `wrong`: the server answered, with something else than the
    requested bytes. `retry_after_s`: the wait that it asked for, or None.
    """

    def __init__(
        self, message: str, *, busy: bool = False, wrong: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.busy = busy
        self.wrong = wrong
        self.retry_after_s = retry_after_s


class RangesNotSupported(Exception):
    """The server answered a range request with the whole file: request it without a range, and read from the start."""


class ResponseBody:
    """The body of one response, in order: exactly the requested bytes, or RetryableResponseError while reading.

    `skip` bytes before the requested `length` bytes are read and dropped. `check_end`: the response has no length, so
    that the end of the body has to be checked. `reusable`: the connection can be kept once the body was read.
    """

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        *,
        skip: int,
        length: int,
        check_end: bool,
        reusable: bool,
        stall_s: float,
    ) -> None:
        self._response = response
        self._skip = skip
        self._left = skip + length
        self._check_end = check_end
        self._reusable = reusable
        self._stall_s = stall_s
        self._waited_s = 0.0
        self._received = 0

    def chunks(self, read_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number of bytes received, at most `read_bytes`, and those of them that were requested: fewer while
        the bytes before the range are skipped.
        """
        return self._chunks(read_bytes, self._received_bytes)

    def chunks_in(self, memory: memoryview) -> Iterator[tuple[int, bytes | memoryview]]:
        """As `chunks`, with as many bytes as `memory` has. They may be in there until the next ones are received."""
        direct = getattr(self._response, "_original_response", None)  # as requests does
        if not isinstance(direct, DirectResponse) or direct.chunked:
            return self.chunks(len(memory))
        return self._chunks(len(memory), lambda count: memory[: direct.receive_into(memory[:count])])

    def _received_bytes(self, count: int) -> bytes:
        chunk: bytes = self._response.read1(count, decode_content=False)
        return chunk

    def _chunks(self, read_bytes: int, receive: Callable[[int], _Chunk]) -> Iterator[tuple[int, _Chunk]]:
        while self._left:
            chunk = self._read(min(read_bytes, self._left), receive)
            if not chunk:
                # Without a length, the body ended as the server wanted.
                raise RetryableResponseError(f"the response ended {self._left} bytes early", wrong=self._check_end)
            # Without a length, the last bytes count only if the body ends with them: a longer body is another file.
            if len(chunk) == self._left and self._check_end and self._read(1, self._received_bytes):
                raise _wrong("the response is longer than the file")
            self._left -= len(chunk)
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            yield len(chunk), chunk[skipped:] if skipped else chunk

    def _read(self, count: int, receive: Callable[[int], _Chunk]) -> _Chunk:
        started = time.monotonic()
        try:
            chunk = receive(count)
        except (HTTPError, OSError, ValueError) as error:  # ValueError: a chunk length that is not a number
            raise RetryableResponseError(describe_error(error, self._stall_s)) from None
        self._waited_s += time.monotonic() - started
        self._received += len(chunk)
        if self._waited_s >= self._stall_s:
            if self._received < _MIN_BYTES_PER_S * self._waited_s:
                raise RetryableResponseError(
                    f"the transfer stalled: {self._received} bytes received in {self._waited_s:.0f} s"
                )
            self._waited_s, self._received = 0.0, 0
        return chunk

    def __enter__(self) -> ResponseBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._left or not self._reusable:
            self._response.close()
        self._response.release_conn()


def open_body(
    response: urllib3.BaseHTTPResponse, *, start: int, end: int, size: int, whole: bool, stall_s: float
) -> ResponseBody:
    """Validate the headers of a response and return its body: bytes `start` to `end` (exclusive) of a file of `size`.

    With `whole`, the request had no range. A Content-Range decides which bytes the response holds, with status 200 as
    well as 206; without one, 200 is the whole file. Raises RetryableResponseError, and RangesNotSupported if the
    response is a valid one to a request without a range.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise _wrong(f"the response is encoded with {encoding[:40]!r}, expected no encoding")
    length = _content_length(response)
    if not whole and (response.status == 206 or _is_partial(response, length, size)):
        return _open_partial(response, length, start=start, end=end, size=size, stall_s=stall_s)
    if response.status == 200:
        if length not in {None, size}:
            raise _wrong(f"the response is a whole body of {length} bytes, expected {size}")
        if length is None and response.headers.get("Content-Type", "").startswith("text/html"):
            raise _wrong("the response is an HTML page, expected the file")
        if not whole and (start, end) != (0, size):
            raise RangesNotSupported
        to_end = end == size
        return ResponseBody(
            response,
            skip=start,
            length=end - start,
            check_end=to_end and length is None,
            reusable=to_end and length is not None,
            stall_s=stall_s,
        )
    raise RetryableResponseError(
        f"the response has status {response.status}",
        busy=response.status in _BUSY_STATUS,
        wrong=response.status < 500 and response.status not in _NO_ANSWER_STATUS,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
    )


def _open_partial(
    response: urllib3.BaseHTTPResponse, length: int | None, *, start: int, end: int, size: int, stall_s: float
) -> ResponseBody:
    """The body of a response with a Content-Range, which decides what it holds."""
    content_range = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    requested = f"bytes {start}-{end - 1}/{size}"
    if not match or int(match[1]) != start or match[3] not in {str(size), "*"}:
        raise _wrong(f"the response holds {content_range[:80] or 'no Content-Range'!r}, expected {requested!r}")
    last = int(match[2])
    # A server may send less than the requested range (RFC 9110, 14.2); the rest is requested next. A tiny part does not
    # count as progress.
    if last != end - 1 and not start + _MIN_PARTIAL_RANGE_BYTES <= last + 1 < end:
        raise _wrong(f"the response holds {content_range[:80]!r}, expected {requested!r}")
    end = last + 1
    if length not in {None, end - start}:
        raise _wrong(f"the response has {length} bytes, expected {end - start}")
    has_length = length is not None
    return ResponseBody(
        response, skip=0, length=end - start, check_end=not has_length, reusable=has_length, stall_s=stall_s
    )


def _is_partial(response: urllib3.BaseHTTPResponse, length: int | None, size: int) -> bool:
    """Whether a response with status 200 holds a range: some S3 servers answer so, with a right Content-Range. One with
    the length of the file is the whole file, whatever its Content-Range says."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return response.status == 200 and match is not None and length != size


def _wrong(message: str) -> RetryableResponseError:
    return RetryableResponseError(message, wrong=True)


def describe_error(error: Exception, stall_s: float) -> str:
    """Describe a connection error without its URL."""
    match error:
        case NewConnectionError():  # before its parent
            return "could not connect: the host name is unknown, or nothing listens there"
        case ConnectTimeoutError():
            return "connecting timed out"
        case ReadTimeoutError() | TimeoutError():
            return f"nothing was received for {stall_s:g} s"
        case SSLError() | ssl.SSLError():
            return "the TLS connection failed: its certificate is not trusted, or the handshake failed"
        case _:
            return f"the connection broke ({type(error).__name__})"


def _content_length(response: urllib3.BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _wrong(f"the response's Content-Length is {text[:40]!r}, expected a number")
    return int(text)


def _retry_after_s(text: str | None) -> float | None:
    """Parse Retry-After: seconds, or a date (RFC 9110, 10.2.3). None if it is neither."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
