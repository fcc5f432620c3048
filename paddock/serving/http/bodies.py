"""Read the bodies of requests, with bounds on the size of each, on the time that it takes, and on the sum of all.

A few large bodies are read at once, in turns, and the others wait in the clients' sockets; so bodies that are many and
large take neither the processor from answers, nor the memory. When the bodies that are being read are too large
together, the largest is refused: clients with large bodies do not keep out those with small ones.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from paddock.serving.refusal import RequestRefused

_RETRY_AFTER_S = 5
_KINDS_OF_PROGRAMS = {"application/json", "application/x-www-form-urlencoded", ""}
_TURNS = 8
_TURN_S = 0.5
_TURN_BYTES = 2**20
_SMALL_BYTES = 64 * 1024
"""So much of a body is read without a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """At most `body_bytes` for a body, `total_bytes` for all that are being read, and `deadline_s` for the whole of
    one."""

    body_bytes: int = 8 * 2**20
    total_bytes: int = 64 * 2**20
    deadline_s: float = 60.0


@dataclass(eq=False, slots=True)
class _Body:
    timeout: asyncio.Timeout
    content: bytearray = field(default_factory=bytearray)
    is_refused: bool = False


class BodyReader:
    """Reads the bodies of a server's requests."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._reading: set[_Body] = set()
        self._total_bytes = 0
        self._turns = asyncio.Semaphore(_TURNS)

    async def read(self, request: Request) -> bytes:
        """Return the body. Raises RequestRefused, and ClientDisconnect if the client disconnects."""
        limits = self._limits
        body = _Body(asyncio.timeout(limits.deadline_s))
        try:
            async with body.timeout:
                self._reading.add(body)
                await self._read(request, body)
            return bytes(body.content)
        except TimeoutError:
            if body.is_refused:
                raise RequestRefused(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"the bodies that are being read have more than {limits.total_bytes} bytes together",
                    code="too_many_bodies",
                    retry_after_s=_RETRY_AFTER_S,
                ) from None
            raise RequestRefused(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {limits.deadline_s:g} s"
            ) from None
        finally:
            self._reading.discard(body)
            self._total_bytes -= len(body.content)

    async def _read(self, request: Request, body: _Body) -> None:
        more = True
        while more and len(body.content) < _SMALL_BYTES:
            more = await self._read_part(request, body)
        while more:
            async with self._turns:
                end = len(body.content) + _TURN_BYTES
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TURN_S):
                        while more and len(body.content) < end:
                            more = await self._read_part(request, body)

    async def _read_part(self, request: Request, body: _Body) -> bool:
        """Read what has arrived. Returns whether more comes."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        body.content += part
        self._total_bytes += len(part)
        if len(body.content) > self._limits.body_bytes:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {self._limits.body_bytes} bytes"
            )
        if self._total_bytes > self._limits.total_bytes:
            self._refuse_largest()
        return bool(message.get("more_body", False))

    def _refuse_largest(self) -> None:
        largest = max(self._reading, key=lambda body: len(body.content))
        self._total_bytes -= len(largest.content)
        largest.content = bytearray()
        largest.is_refused = True
        self._reading.discard(largest)
        largest.timeout.reschedule(asyncio.get_running_loop().time())


def require_json(request: Request) -> None:
    """Raise RequestRefused for a body that is said to be something else than JSON in UTF-8.

    Programs may leave out the content type, or send the one that curl sends. A request of a web page, which has an
    origin, must say it: browsers send other content types to any address without a preflight request.
    """
    headers = request.headers
    content_type, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    kinds = {"application/json"} if "origin" in headers else _KINDS_OF_PROGRAMS
    if content_type.strip().lower() not in kinds or charset not in {"", "utf-8", "utf8"}:
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body has to be JSON in UTF-8: send content-type: application/json"
        )
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content-encoding {encoding[:40]!r} is not supported: send none"
        )
