"""Read the bodies of requests, with bounds on the size of each, on the time that it takes, and on the sum of all.

A few large bodies are read at once, each to its end, and the others wait in the clients' sockets; so bodies that are
many and large take neither the processor from answers, nor the memory. A body that stands still lets another be read.
When the bodies that are being read are too large together, the one that has stood still for the longest is refused:
clients that begin large bodies and do not end them keep out nobody. A body counts from its first byte until its request
is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request

from paddock.serving.refusal import RequestRefused

_RETRY_AFTER_S: Final = 5
_TURNS: Final = 4
"""So many large bodies are read at once; their limits together are less than the limit of all."""
_STEP_BYTES: Final = 16 * 1024
_STEP_S: Final = 0.1
"""A body of which less than a step comes in that time stands still."""
_SMALL_BYTES: Final = 64 * 1024
"""So much of a body is read without a turn, and one that has no more is let in whatever the requests that wait for
their answers hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """At most `body_bytes` for a body and `deadline_s` for the whole of one, `total_bytes` for all that are being read,
    and `held_bytes` for those whose requests are not answered yet."""

    body_bytes: int = 8 * 2**20
    total_bytes: int = 40 * 2**20
    held_bytes: int = 64 * 2**20
    deadline_s: float = 60.0


@dataclass(eq=False, slots=True)
class _Body:
    timeout: asyncio.Timeout
    began_at: float
    stands_since: float | None = None
    content: bytearray = field(default_factory=bytearray)
    is_refused: bool = False


class BodyReader:
    """Reads the bodies of a server's requests."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._reading: set[_Body] = set()
        self._total_bytes = 0
        self._held_bytes = 0
        self._turns = asyncio.Semaphore(_TURNS)

    @property
    def held_bytes(self) -> int:
        """Size of the bodies that were read and whose requests are not answered yet."""
        return self._held_bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body and hold it, as a context manager. Raises RequestRefused, and ClientDisconnect if the client
        disconnects."""
        content = await self._read_whole(request)
        size = len(content)
        if size > _SMALL_BYTES and self._held_bytes + size > self._limits.held_bytes:
            raise _too_many("the bodies of the requests that are being answered", self._limits.held_bytes)
        self._held_bytes += size
        try:
            yield content
        finally:
            self._held_bytes -= size

    async def _read_whole(self, request: Request) -> bytes:
        limits = self._limits
        body = _Body(asyncio.timeout(limits.deadline_s), asyncio.get_running_loop().time())
        try:
            async with body.timeout:
                self._reading.add(body)
                await self._read(request, body)
            if body.is_refused:  # its last part came before the time-out that refuses it
                raise TimeoutError
            return bytes(body.content)
        except TimeoutError:
            if body.is_refused:
                raise _too_many("the bodies that are being read", limits.total_bytes) from None
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
                is_moving = True
                while more and is_moving:
                    more, is_moving = await self._read_step(request, body)

    async def _read_step(self, request: Request, body: _Body) -> tuple[bool, bool]:
        """Read the next part of a large body. Returns whether more comes, and whether the body does not stand still."""
        end, more = len(body.content) + _STEP_BYTES, True
        with suppress(TimeoutError):
            async with asyncio.timeout(_STEP_S):
                while more and len(body.content) < end:
                    more = await self._read_part(request, body)
        is_moving = not more or len(body.content) >= end
        body.stands_since = None if is_moving else body.stands_since or asyncio.get_running_loop().time()
        return more, is_moving

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
            self._refuse_one()
        return bool(message.get("more_body", False))

    def _refuse_one(self) -> None:
        """Refuse the large body that has stood still for the longest, else the one that began last; if there are small
        ones only, the largest."""
        large = [body for body in self._reading if len(body.content) >= _SMALL_BYTES]
        standing = [body for body in large if body.stands_since is not None]
        if standing:
            refused = min(standing, key=lambda body: body.stands_since or 0.0)
        elif large:
            refused = max(large, key=lambda body: body.began_at)
        else:
            refused = max(self._reading, key=lambda body: len(body.content))
        self._total_bytes -= len(refused.content)
        refused.content = bytearray()
        refused.is_refused = True
        self._reading.discard(refused)
        refused.timeout.reschedule(asyncio.get_running_loop().time())


def _too_many(what: str, limit_bytes: int) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{what} have more than {limit_bytes} bytes together",
        code="too_many_bodies",
        retry_after_s=_RETRY_AFTER_S,
    )
