"""Proxy of one request to the engine and of its answer to the client.

An answer is either complete or an error: if the engine dies in the middle, the client gets a 502 if nothing was sent
yet, and an `error` event if a stream has begun. If a client disconnects, the connection to the engine is closed, which
makes the engine stop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import Send

from paddock.serving.admission import AdmissionQueue, QueueFull, WaitAborted
from paddock.serving.cut_text import CutCharacterFilter, drop_cut_character
from paddock.serving.metrics import Metrics
from paddock.serving.requests import EngineRequest, RequestRefused
from paddock.store.volume.usage import Usage

RETRY_AFTER_S = 5
"""`Retry-After` while the engine is being restarted."""
_SEND_TIMEOUT_S = 60.0
"""How long a client may stop reading once the send buffers are full."""
_DONE = "[DONE]"
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_Event = dict[str, Any]


class UsageCounter:
    """Requests and tokens since the last `take`."""

    def __init__(self) -> None:
        self._sum = Usage()

    def add(self, usage: Any) -> None:
        """Add one request with the `usage` object of its answer; anything but an object counts no tokens."""
        fields = usage if isinstance(usage, dict) else {}
        self._sum += Usage(1, _count(fields.get("prompt_tokens")), _count(fields.get("completion_tokens")))

    def take(self) -> Usage:
        """Return the sum and reset it."""
        taken, self._sum = self._sum, Usage()
        return taken


class Proxy:
    """Forward requests to the engine, each in its turn of the queue, and record metrics and usage."""

    def __init__(self, client: httpx.AsyncClient, queue: AdmissionQueue, metrics: Metrics, usage: UsageCounter) -> None:
        self._client = client
        self._queue = queue
        self._metrics = metrics
        self._usage = usage

    async def answer(self, request: EngineRequest, send: Send) -> None:
        """Wait for a slot, forward the request, and send the answer. Raises RequestRefused if nothing was sent yet."""
        began = time.perf_counter()
        try:
            async with self._queue.slot():
                self._metrics.queue_s.observe(time.perf_counter() - began)
                await self._answer(request, send, began)
        except QueueFull as error:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the queue is full: {self._queue.running} requests are running and {self._queue.waiting} are waiting",
                code="queue_full",
                retry_after_s=error.retry_after_s,
            ) from None
        except WaitAborted as error:
            raise unavailable(str(error)) from None
        self._metrics.request_s.observe(time.perf_counter() - began)

    async def _answer(self, request: EngineRequest, send: Send, began: float) -> None:
        try:
            body = {**request.body, "timings_per_token": True} if request.stream else request.body
            async with self._client.stream("POST", request.path, json=body) as answer:
                if answer.status_code != HTTPStatus.OK:
                    raise _refusal(answer.status_code, await answer.aread())
                if request.stream:
                    await self._stream(request, answer, send, began)
                else:
                    await self._send_complete(await answer.aread(), send)
        except (httpx.TransportError, httpx.StreamError):  # before anything was sent to the client
            raise engine_died() from None

    async def _send_complete(self, content: bytes, send: Send) -> None:
        try:
            value = json.loads(content)
        except ValueError:
            raise engine_died() from None
        if drop_cut_character(value):
            content = json.dumps(value, ensure_ascii=False).encode()
        self._count(value.get("usage"))
        await _start(send, _JSON, length=len(content))
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, request: EngineRequest, answer: httpx.Response, send: Send, began: float) -> None:
        """Forward events as they arrive; the first one decides whether the answer is a stream or an error."""
        events = _events(answer)
        first = await anext(events, None)
        if first is None:
            raise engine_died()
        if isinstance(first, dict) and "error" in first:
            raise _refusal(_status_of(first["error"]), json.dumps(first))
        await _start(send, _EVENTS)
        cut_characters = CutCharacterFilter(
            max_tokens=request.body.get("max_tokens"), with_timings=bool(request.body.get("timings_per_token"))
        )
        stream = _ClientStream(send, cut_characters, include_usage=request.include_usage)
        try:
            await stream.forward(first)
            async for event in events:
                await stream.forward(event)
        except (httpx.TransportError, httpx.StreamError):
            pass
        if not stream.is_complete:
            await stream.fail(engine_died())
        await send({"type": "http.response.body", "body": b""})
        self._count(stream.usage)
        if stream.first_text is not None:
            self._metrics.first_token_s.observe(stream.first_text - began)
            if stream.texts > 1:
                self._metrics.per_token_s.observe((stream.last_text - stream.first_text) / (stream.texts - 1))

    def _count(self, usage: Any) -> None:
        self._usage.add(usage)
        if isinstance(usage, dict):
            self._metrics.prompt_tokens.inc(_count(usage.get("prompt_tokens")))
            self._metrics.generation_tokens.inc(_count(usage.get("completion_tokens")))


class _ClientStream:
    """The client's side of a stream whose headers were sent."""

    def __init__(self, send: Send, cut_characters: CutCharacterFilter, *, include_usage: bool) -> None:
        self._send = send
        self._include_usage = include_usage
        self._cut_characters = cut_characters
        self.usage: Any = None
        self.is_complete = False
        self.failed = False
        self.first_text: float | None = None
        self.last_text = 0.0
        self.texts = 0

    async def forward(self, event: _Event | str) -> None:
        if self.failed:
            return
        if isinstance(event, str):
            self.is_complete = event == _DONE
            await self._send_event(event)
        elif "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {}
            message = str(error.get("message", "the engine reported an error"))
            await self.fail(RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, message, code="engine_error"))
        else:
            await self._chunk(event)

    async def fail(self, error: RequestRefused) -> None:
        if not self.failed:
            self.failed = self.is_complete = True
            await self._send_event(json.dumps(error.to_json()))

    async def _chunk(self, event: _Event) -> None:
        self._cut_characters.apply(event)
        if event.get("usage"):
            self.usage = event["usage"]
        if not event.get("choices"):  # the chunk with token usage
            if not self._include_usage or not event.get("usage"):
                return
        elif _has_text(event):
            self.last_text = time.perf_counter()
            self.first_text = self.first_text or self.last_text
            self.texts += 1
        await self._send_event(json.dumps(event, ensure_ascii=False))

    async def _send_event(self, data: str) -> None:
        """Send one event. Raises ClientDisconnect if the client stops reading: it would hold its slot forever."""
        body = f"data: {data}\n\n".encode()
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            raise ClientDisconnect from None


async def _events(answer: httpx.Response) -> AsyncIterator[_Event | str]:
    """Yield the data of each server-sent event, parsed as JSON, or the text `[DONE]`; comments are skipped."""
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == _DONE:
            yield data
            return
        try:
            value = json.loads(data)
        except ValueError:
            return
        if isinstance(value, dict):
            yield value


async def _start(send: Send, content_type: bytes, *, length: int | None = None) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def engine_died() -> RequestRefused:
    return RequestRefused(
        HTTPStatus.BAD_GATEWAY,
        "the engine died before this answer was complete; it is being restarted",
        code="engine_died",
        retry_after_s=RETRY_AFTER_S,
    )


def unavailable(reason: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason, code="not_ready", retry_after_s=RETRY_AFTER_S)


def _refusal(status: int, content: bytes | str) -> RequestRefused:
    """Convert an error answer of the engine to OpenAI's form.

    A body that the engine's server cannot parse is a 400, whichever server it is.
    """
    try:
        value = json.loads(content)
    except ValueError:
        value = {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    detail = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    message = detail if isinstance(detail, str) else json.dumps(detail) if detail else f"the engine answered {status}"
    code = error.get("code") if isinstance(error, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    if kind == "exceed_context_size_error":  # llama-server's name for it
        code = "context_length_exceeded"
    if "is too large to process" in message:  # llama-server's 500 for a text that an encoder cannot hold
        status, code = HTTPStatus.BAD_REQUEST, "context_length_exceeded"
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    if not HTTPStatus.BAD_REQUEST <= status <= 599:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    return RequestRefused(status, message[:2000], code=code if isinstance(code, str) else None)


def _status_of(error: Any) -> int:
    """Return the HTTP status of an error event; llama-server calls it `code`."""
    candidates = [error.get("status"), error.get("code")] if isinstance(error, dict) else []
    return next((status for status in candidates if isinstance(status, int)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _has_text(event: _Event) -> bool:
    choice = event["choices"][0]
    delta = choice.get("delta", choice)
    return any(delta.get(name) for name in ("content", "text", "reasoning_content", "tool_calls"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
