"""Parse HTTP/1.1 requests strictly: h11, without what two servers in a row may read differently.

A proxy in front of this server may split one stream of bytes into other requests than we do, which lets a client
smuggle a request past it. h11 follows RFC 9112 and is lenient where the RFC allows it; here each of these is refused: a
line that ends without a carriage return, a header that is continued on the next line, a length that is given twice or
together with a transfer coding, and a coding in HTTP/1.0. After a body in chunks, and after one that was not read to
its end, the connection is closed, so that no byte of it is taken for a request.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

import h11

_FREE_CHUNKS: Final = 1000
_MIN_CHUNK_BYTES: Final = 64
"""Chunks beyond the first thousand must hold as many bytes on average: each costs as much work as a large one."""
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*(.*)", re.IGNORECASE)
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class StrictConnection(h11.Connection):
    """h11's connection of a server, as above. After a RemoteProtocolError, `status` and `problem` are the answer."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self.status, self.problem = HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1"
        self._is_chunked = False
        self._chunks = self._chunk_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        is_head = self.their_state is h11.IDLE
        received = self.trailing_data[0] if is_head else b""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                return self._checked(event, received[: len(received) - len(self.trailing_data[0])])
            if isinstance(event, h11.Data):
                self._check_chunk(event)
        except h11.RemoteProtocolError as error:
            if isinstance(error, _Refused):
                self.problem = str(error)
            elif error.error_status_hint == _TOO_LARGE:
                self.status, self.problem = _TOO_LARGE, "a line or the headers of the request are too long"
            raise
        return event

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]  # h11 declares overloads
        unread = self.their_state is h11.SEND_BODY
        if isinstance(event, h11.Response) and (unread or self._is_chunked):
            headers = [item for item in event.headers.raw_items() if item[0].lower() != b"connection"]
            event = h11.Response(
                status_code=event.status_code, reason=event.reason, headers=[*headers, (b"connection", b"close")]
            )
        return super().send(event)

    def _checked(self, request: h11.Request, head: bytes) -> h11.Request:
        """Check a request, of which `head` are the bytes. A target with scheme and host is shortened to the path."""
        lines = [line.lower() for line in head.split(b"\r\n")]
        lengths = [line for line in lines if line.startswith(b"content-length:")]
        self._is_chunked = any(line.startswith(b"transfer-encoding:") for line in lines)
        self._chunks = self._chunk_bytes = 0
        if not request.http_version.startswith(b"1."):
            raise _Refused("only HTTP/1.1 is supported")
        if head.count(b"\n") != head.count(b"\r\n"):
            raise _Refused("a line of the request's head ends without a carriage return")
        if b"\n " in head or b"\n\t" in head:
            raise _Refused("a header is continued on the next line")
        if len(lengths) + self._is_chunked > 1 or b"," in b"".join(lengths):
            raise _Refused("the length of the body is given more than once")
        if self._is_chunked and request.http_version == b"1.0":
            raise _Refused("HTTP/1.0 has no transfer coding")
        absolute = _ABSOLUTE.fullmatch(request.target)
        if not absolute:
            return request
        target, headers = b"/" + absolute[1].removeprefix(b"/"), request.headers.raw_items()
        return h11.Request(method=request.method, target=target, headers=headers, http_version=request.http_version)

    def _check_chunk(self, data: h11.Data) -> None:
        self._chunks += data.chunk_start
        self._chunk_bytes += len(data.data)
        if self._chunks > _FREE_CHUNKS + self._chunk_bytes // _MIN_CHUNK_BYTES:
            raise _Refused("the body consists of too many small chunks")


class _Refused(h11.RemoteProtocolError):
    pass
