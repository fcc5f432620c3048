"""Parse HTTP/1.1 requests strictly: h11, without what two servers in a row may read differently.

A proxy in front of this server may split one stream of bytes into other requests than we do, which lets a client
smuggle a request past it. h11 follows RFC 9112 and is lenient where the RFC allows it; here each of these is refused: a
line that ends without a carriage return, a header that is continued on the next line, a control character, a length
that is given twice or together with a transfer coding, a coding in HTTP/1.0, a header twice that has one value, a
request without a host or with two, and chunks with extensions (`chunk_framing`). After a body in chunks, and after one
that was not read to its end, the connection is closed, so that no byte of it is taken for a request.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

import h11

from paddock.serving.http.chunk_framing import ChunkFraming

_MAX_HEADERS: Final = 100
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SINGLE: Final = frozenset(
    (b"authorization", b"content-encoding", b"content-type", b"expect", b"host", b"origin", b"sec-fetch-site")
)
"""Headers with one value, on which the answer depends: of two, one server takes the first and another the last."""
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class StrictConnection(h11.Connection):
    """h11's connection of a server, as above. After a RemoteProtocolError, `status` and `problem` are the answer."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self.status, self.problem = HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1"
        self._chunks: ChunkFraming | None = None

    def receive_data(self, data: bytes) -> None:
        if self._chunks is not None and self.their_state is h11.SEND_BODY:
            self._chunks.feed(data)
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        is_head = self.their_state is h11.IDLE
        received = self.trailing_data[0] if is_head else b""
        try:
            if self._chunks is not None and self._chunks.problem is not None:
                raise _Refused(self._chunks.problem)
            event = super().next_event()
            if isinstance(event, h11.Request):
                return self._checked(event, received[: len(received) - len(self.trailing_data[0])])
        except h11.RemoteProtocolError as error:
            if isinstance(error, _Refused):
                self.problem = str(error)
            elif error.error_status_hint == _TOO_LARGE:
                self.status, self.problem = _TOO_LARGE, "a line or the headers of the request are too long"
            raise
        return event

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]  # h11 declares overloads
        unread = self.their_state is h11.SEND_BODY
        if isinstance(event, h11.Response) and (unread or self._chunks is not None):
            headers = [item for item in event.headers.raw_items() if item[0].lower() != b"connection"]
            event = h11.Response(
                status_code=event.status_code, reason=event.reason, headers=[*headers, (b"connection", b"close")]
            )
        return super().send(event)

    def _checked(self, request: h11.Request, head: bytes) -> h11.Request:
        """Check a request, of which `head` are the bytes. A target with scheme and host is shortened to the path."""
        lines = [line.lower() for line in head.split(b"\r\n")]
        lengths = [line for line in lines if line.startswith(b"content-length:")]
        is_chunked = any(line.startswith(b"transfer-encoding:") for line in lines)
        self._chunks = None
        if not request.http_version.startswith(b"1."):
            raise _Refused("only HTTP/1.1 is supported")
        if not head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n"):
            raise _Refused("a line of the request's head does not end with a carriage return and a line feed")
        if b"\n " in head or b"\n\t" in head:
            raise _Refused("a header is continued on the next line")
        if _CONTROL.search(head):
            raise _Refused("the request's head holds a control character")
        if len(lengths) + is_chunked > 1 or b"," in b"".join(lengths):
            raise _Refused("the length of the body is given more than once")
        if is_chunked and request.http_version == b"1.0":
            raise _Refused("HTTP/1.0 has no transfer coding")
        self._check_headers([name for name, _ in request.headers])
        if is_chunked:
            self._chunks = ChunkFraming()
            self._chunks.feed(self.trailing_data[0])
        absolute = _ABSOLUTE.fullmatch(request.target)
        if not absolute:
            return request
        if dict(request.headers)[b"host"].lower() != absolute[1].lower():
            raise _Refused("the target of the request and its Host header differ")
        target, headers = b"/" + absolute[2].removeprefix(b"/"), request.headers.raw_items()
        return h11.Request(method=request.method, target=target, headers=headers, http_version=request.http_version)

    def _check_headers(self, names: list[bytes]) -> None:
        if len(names) > _MAX_HEADERS:
            self.status = _TOO_LARGE
            raise _Refused(f"the request has more than {_MAX_HEADERS} headers")
        for name in _SINGLE & set(names):
            if names.count(name) > 1:
                raise _Refused(f"the header {name.decode()} is given more than once")
        if b"host" not in names:
            raise _Refused("the request has no Host header")


class _Refused(h11.RemoteProtocolError):
    pass
