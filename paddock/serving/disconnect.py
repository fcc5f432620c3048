"""ASGI middleware for llama-cpp-python's server: report whether the engine makes progress, and detect disconnects.

It runs in the engine's own process.
That server does not notice a disconnect while it computes an answer that is not streamed.
"""

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
"""Event that is set when the current request's client has disconnected. The threads that compute see it too, since each
runs in a copy of its request's context."""


class Heartbeat:
    """Progress of the engine: the number of active requests, and the time of its last step."""

    def __init__(self) -> None:
        self._active = 0
        self._last_step = time.monotonic()

    def request_started(self) -> None:
        self._active += 1
        self._last_step = time.monotonic()

    def step_done(self) -> None:
        self._last_step = time.monotonic()

    def request_ended(self) -> None:
        self._active -= 1

    @property
    def stalled_s(self) -> float:
        """Seconds since the last step, 0 without an active request."""
        return time.monotonic() - self._last_step if self._active else 0.0


class DisconnectMiddleware:
    """Middleware in front of the server: answers `/health`, and sets `client_left` when a client disconnects."""

    def __init__(self, app: ASGIApp, heartbeat: Heartbeat) -> None:
        self._app = app
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/health":
            await _send_json(send, {"status": "ok", "stalled_s": self._heartbeat.stalled_s})
        else:
            self._heartbeat.request_started()
            try:
                await self._answer(scope, receive, send)
            finally:
                self._heartbeat.request_ended()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        left_for_threads, left = threading.Event(), asyncio.Event()
        client_left.set(left_for_threads)
        body_sent = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left_for_threads.set()
            left.set()

        async def replay() -> Message:
            nonlocal body_sent
            if not body_sent:
                body_sent = True
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


async def _send_json(send: Send, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
