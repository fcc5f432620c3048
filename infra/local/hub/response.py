"""Responses of the local Hub: how they are built, how a fault changes them, and how they are sent.

A response carries either a text (JSON of the API, a redirect, an error) or a range of a stored file. The last six
fields of `HubResponse` are set by faults; with their defaults the response is correct. Single byte ranges are supported
(RFC 9110, section 14); a request for several ranges gets the whole file, as from the CDNs.
"""

import asyncio
import contextlib
import json
import os
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class ConnectionEnd(Enum):
    """How the connection ends after the body."""

    COMPLETE = auto()  # the response is complete, and the connection is kept
    CLOSED = auto()  # closed in an orderly way, before the promised length
    RESET = auto()  # TCP RST
    STALLED = auto()  # left open, without another byte


@dataclass(frozen=True)
class StoredFile:
    """A file of a repository: `org/name/path`, where its bytes are, and their number."""

    name: str
    path: Path
    size: int


@dataclass
class HubResponse:
    """A response. `start` and `stop` (exclusive) are offsets in `file`; without a file the body is `text`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    file: StoredFile | None = None
    start: int = 0
    stop: int = 0
    expire_url: Callable[[], None] | None = None  # makes the signed URL of this request invalid

    cut_after: int | None = None
    connection_end: ConnectionEnd = ConnectionEnd.COMPLETE
    flip: tuple[int, int] | None = None  # offset in the file, bit
    bytes_per_s: float | None = None
    endless: bool = False
    gzip: bool = False

    @property
    def body_bytes(self) -> int:
        return len(self.text) if self.file is None else self.stop - self.start

    def replace_by_text(self, status: int, text: bytes, headers: Mapping[str, str]) -> None:
        self.status, self.text, self.file = status, text, None
        self.headers = {"Content-Type": "text/plain", **headers, "Content-Length": str(len(text))}


class Disconnected(Exception):
    """The client disconnected before the whole body was sent."""


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> HubResponse:
    body = text.encode()
    return HubResponse(
        status,
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), **(headers or {})},
        body,
    )


def json_response(value: object, headers: Mapping[str, str] | None = None, *, status: int = 200) -> HubResponse:
    content_type = {"Content-Type": "application/json; charset=utf-8"}
    return text_response(status, json.dumps(value), content_type | dict(headers or {}))


def file_response(
    file: StoredFile, request_headers: Mapping[str, str], *, etag: str, headers: Mapping[str, str]
) -> HubResponse:
    """The file (200) or the requested range of it (206); 304 for a matching ETag, 416 for a range past the end."""
    own = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **headers}
    if request_headers.get("if-none-match") == own["ETag"]:
        return HubResponse(304, own)
    is_current = request_headers.get("if-range", own["ETag"]) == own["ETag"]
    requested = _requested_range(request_headers.get("range", ""), file.size) if is_current else None
    start, stop = requested or (0, file.size)
    if requested is not None and start >= file.size:
        return text_response(416, "", {**own, "Content-Range": f"bytes */{file.size}"})
    if requested is not None:
        own["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    own |= {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start)}
    return HubResponse(200 if requested is None else 206, own, file=file, start=start, stop=stop)


def _requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop (exclusive) of the range in a Range header; None for no range, several, or an invalid one."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # a suffix range: the last N bytes
        return max(size - int(match[2]), 0) if int(match[2]) else size, size
    start, last = int(match[1]), int(match[2] or size)
    return (start, min(last + 1, size)) if last >= start or start >= size else None


async def send_response(
    response: HubResponse, scope: Scope, receive: Receive, send: Send, on_bytes: Callable[[int], None]
) -> None:
    """Send the response, as far as its `connection_end` allows. `on_bytes` is called for each piece of a file.

    Raises Disconnected when the client disconnects; for a stalled connection, that is how sending ends.
    """
    is_head = scope["method"] == "HEAD"
    if not is_head or response.connection_end is ConnectionEnd.COMPLETE:
        headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
    disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        if not is_head:
            await _send_body(response, send, on_bytes, disconnected)
        if response.connection_end is ConnectionEnd.STALLED:
            await disconnected
            raise Disconnected
    finally:
        disconnected.cancel()
    if response.connection_end is ConnectionEnd.COMPLETE:
        await send({"type": "http.response.body", "body": b""})


async def _send_body(
    response: HubResponse, send: Send, on_bytes: Callable[[int], None], disconnected: "asyncio.Future[None]"
) -> None:
    async with contextlib.aclosing(_body(response)) as pieces:
        async for piece in pieces:
            pause_s = len(piece) / response.bytes_per_s if response.bytes_per_s else 0
            await asyncio.wait([disconnected], timeout=pause_s)
            if disconnected.done():
                raise Disconnected
            if response.file is not None:
                on_bytes(len(piece))  # before sending, so that a byte is counted when a client has read it
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(response: HubResponse) -> AsyncGenerator[bytes, None]:
    """The pieces of the body, with the faults of its content applied."""
    size = CHUNK_BYTES
    if response.bytes_per_s:
        size = max(1, min(size, int(response.bytes_per_s / 20)))
    remaining = response.cut_after
    compressor = zlib.compressobj(wbits=31) if response.gzip else None
    async with contextlib.aclosing(_content(response, size)) as pieces:
        async for content in pieces:
            piece = content if remaining is None else content[:remaining]
            if remaining is not None:
                remaining -= len(piece)
            if compressor:
                piece = compressor.compress(piece)
            if piece:
                yield piece
            if remaining == 0:
                return
    if compressor:
        yield compressor.flush()


async def _content(response: HubResponse, size: int) -> AsyncGenerator[bytes, None]:
    if response.file is None:
        for start in range(0, len(response.text), size):
            yield response.text[start : start + size]
    else:
        descriptor = await asyncio.to_thread(os.open, response.file.path, os.O_RDONLY)
        try:
            for start in range(response.start, response.stop, size):
                piece = await asyncio.to_thread(os.pread, descriptor, min(size, response.stop - start), start)
                yield _flip_bit(piece, start, response.flip)
        finally:
            os.close(descriptor)
    while response.endless:
        yield bytes(size)


def _flip_bit(piece: bytes, start: int, flip: tuple[int, int] | None) -> bytes:
    if flip is None or not start <= flip[0] < start + len(piece):
        return piece
    changed = bytearray(piece)
    changed[flip[0] - start] ^= 1 << flip[1]
    return bytes(changed)
