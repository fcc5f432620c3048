"""The door of llama-cpp-python's server, inside the engine's process: it tells whether the engine gets on, and sees
when a client leaves, which that server does not notice over an answer in one piece."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

client_left: ContextVar[threading.Event | None] = ContextVar("client_left", default=None)
"""Set when the client of the request that is being answered has left. The threads that compute see it too: each runs in
a copy of its request's context."""


class Heartbeat:
    """Whether the engine gets on with what it was asked: how many requests it has, and when it last did a step."""

    def __init__(self) -> None:
        self._asked = 0
        self._last = time.monotonic()

    def began(self) -> None:
        self._asked += 1
        self._last = time.monotonic()

    def stepped(self) -> None:
        self._last = time.monotonic()

    def ended(self) -> None:
        self._asked -= 1

    @property
    def stalled_s(self) -> float:
        return time.monotonic() - self._last if self._asked else 0.0


class DisconnectMiddleware:
    """In front of the server: answers `/health`, and sees when a client leaves."""

    def __init__(self, app: ASGIApp, pulse: Heartbeat) -> None:
        self._app = app
        self._pulse = pulse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/health":
            await _say(send, {"status": "ok", "stalled_s": self._pulse.stalled_s})
        else:
            self._pulse.began()
            try:
                await self._answer(scope, receive, send)
            finally:
                self._pulse.ended()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        gone, left = threading.Event(), asyncio.Event()
        client_left.set(gone)
        given = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            left.set()

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, send)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


async def _say(send: Send, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
