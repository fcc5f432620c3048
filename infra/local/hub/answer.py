"""What the local Hub answers, as a value that a fault can still change, and the one place that sends it.

An *answer* carries either a text (an API's JSON, a redirect, an error) or a part of a stored file. Its last six
fields are what faults set; left alone, the answer is right. Single byte ranges are understood (RFC 9110, 14); several
ranges in one request are answered with the whole file, as the CDNs do.
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


class Ending(Enum):
    """How the connection is left after the body."""

    WHOLE = auto()
    CLOSED = auto()  # orderly, but before the promised length
    RESET = auto()  # TCP RST
    SILENT = auto()  # open, and nothing more comes


@dataclass(frozen=True)
class StoredFile:
    """A file's bytes on disk, and its name as `org/name/path`."""

    name: str
    path: Path
    size: int


@dataclass
class HubAnswer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    file: StoredFile | None = None
    start: int = 0
    stop: int = 0
    lapse: Callable[[], None] | None = None  # ends the signed address by which the file was asked for

    cut_after: int | None = None
    ending: Ending = Ending.WHOLE
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
    """The client went before the body was sent."""


def of_text(status: int, text: str, headers: Mapping[str, str] | None = None) -> HubAnswer:
    body = text.encode()
    return HubAnswer(
        status,
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), **(headers or {})},
        body,
    )


def of_json(value: object, headers: Mapping[str, str] | None = None, *, status: int = 200) -> HubAnswer:
    return of_text(status, json.dumps(value), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def of_file(
    file: StoredFile, request_headers: Mapping[str, str], *, etag: str, headers: Mapping[str, str]
) -> HubAnswer:
    """The file, or the range of it that was asked for, or 304 or 416."""
    own = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **headers}
    if request_headers.get("if-none-match") == own["ETag"]:
        return HubAnswer(304, own)
    is_current = request_headers.get("if-range", own["ETag"]) == own["ETag"]
    wanted = _wanted_range(request_headers.get("range", ""), file.size) if is_current else None
    start, stop = wanted or (0, file.size)
    if wanted is not None and start >= file.size:
        return of_text(416, "", {**own, "Content-Range": f"bytes */{file.size}"})
    if wanted is not None:
        own["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    own |= {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start)}
    return HubAnswer(200 if wanted is None else 206, own, file=file, start=start, stop=stop)


def _wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop (exclusive) of the one range in the header; None for no range, several, or what is no range."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last so many bytes
        return max(size - int(match[2]), 0) if int(match[2]) else size, size
    start, last = int(match[1]), int(match[2] or size)
    return (start, min(last + 1, size)) if last >= start or start >= size else None


async def send(answer: HubAnswer, scope: Scope, receive: Receive, send_: Send, sent: Callable[[int], None]) -> None:
    """Sends the answer as far as its ending allows. `sent` is told of every piece of a file that went to the socket.

    Raises Disconnected when the client went, or when the ending is that it must be left waiting until it goes.
    """
    is_head = scope["method"] == "HEAD"
    if not is_head or answer.ending is Ending.WHOLE:
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        await send_({"type": "http.response.start", "status": answer.status, "headers": headers})
    gone = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        if not is_head:
            await _send_body(answer, send_, sent, gone)
        if answer.ending is Ending.SILENT:
            await gone
            raise Disconnected
    finally:
        gone.cancel()
    if answer.ending is Ending.WHOLE:
        await send_({"type": "http.response.body", "body": b""})


async def _send_body(answer: HubAnswer, send: Send, sent: Callable[[int], None], gone: "asyncio.Future[None]") -> None:
    async with contextlib.aclosing(_body(answer)) as pieces:
        async for piece in pieces:
            await asyncio.wait([gone], timeout=len(piece) / answer.bytes_per_s if answer.bytes_per_s else 0)
            if gone.done():
                raise Disconnected
            if answer.file is not None:
                sent(len(piece))  # before it goes: whoever has read a byte finds it counted
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(answer: HubAnswer) -> AsyncGenerator[bytes, None]:
    """The pieces of the body, with the faults of content in them."""
    size = CHUNK_BYTES
    if answer.bytes_per_s:
        size = max(1, min(size, int(answer.bytes_per_s / 20)))
    left = answer.cut_after
    packer = zlib.compressobj(wbits=31) if answer.gzip else None
    async with contextlib.aclosing(_content(answer, size)) as pieces:
        async for whole in pieces:
            piece = whole if left is None else whole[:left]
            if left is not None:
                left -= len(piece)
            if packer:
                piece = packer.compress(piece)
            if piece:
                yield piece
            if left == 0:
                return
    if packer:
        yield packer.flush()


async def _content(answer: HubAnswer, size: int) -> AsyncGenerator[bytes, None]:
    if answer.file is None:
        for start in range(0, len(answer.text), size):
            yield answer.text[start : start + size]
    else:
        descriptor = await asyncio.to_thread(os.open, answer.file.path, os.O_RDONLY)
        try:
            for start in range(answer.start, answer.stop, size):
                piece = await asyncio.to_thread(os.pread, descriptor, min(size, answer.stop - start), start)
                yield _flipped(piece, start, answer.flip)
        finally:
            os.close(descriptor)
    while answer.endless:
        yield bytes(size)


def _flipped(piece: bytes, start: int, flip: tuple[int, int] | None) -> bytes:
    if flip is None or not start <= flip[0] < start + len(piece):
        return piece
    changed = bytearray(piece)
    changed[flip[0] - start] ^= 1 << flip[1]
    return bytes(changed)
