"""Takes one request to the engine and its answer back.

An answer is whole or it is an error: the engine's death in the middle becomes a 502 where nothing was sent yet, and an
`error` event where a stream has begun. A client that leaves takes its request along: the connection to the engine is
closed, and the engine stops.
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

from paddock.serving.admission import AdmissionQueue, QueueFull, TurnedAway
from paddock.serving.metrics import Metrics
from paddock.serving.requests import EngineRequest, RequestRefused
from paddock.store.volume.usage import Usage

BACK_IN_S = 5
"""What a client is told to wait when the engine is being started again."""
_TAKES_S = 60.0
"""How long a client may leave what it is sent untaken, once the buffers are full."""
_DONE = "[DONE]"
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_Event = dict[str, Any]


class Tokens:
    """What was asked and told since the last `take`."""

    def __init__(self) -> None:
        self._sum = Usage()

    def add(self, usage: Any) -> None:
        """Add an answer's `usage`, where the engine told one."""
        told = usage if isinstance(usage, dict) else {}
        self._sum += Usage(1, _count(told.get("prompt_tokens")), _count(told.get("completion_tokens")))

    def take(self) -> Usage:
        taken, self._sum = self._sum, Usage()
        return taken


class Proxy:
    def __init__(self, client: httpx.AsyncClient, places: AdmissionQueue, metrics: Metrics, tokens: Tokens) -> None:
        self._client = client
        self._places = places
        self._metrics = metrics
        self._tokens = tokens

    async def answer(self, ask: EngineRequest, send: Send) -> None:
        """Raises Refused while nothing has been sent."""
        began = time.perf_counter()
        try:
            async with self._places.place():
                self._metrics.queue_s.observe(time.perf_counter() - began)
                await self._answer(ask, send, began)
        except QueueFull as error:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the queue is full: {self._places.running} requests run and {self._places.waiting} wait",
                code="queue_full",
                retry_after_s=error.retry_after_s,
            ) from None
        except TurnedAway as error:
            raise unavailable(str(error)) from None
        self._metrics.request_s.observe(time.perf_counter() - began)

    async def _answer(self, ask: EngineRequest, send: Send, began: float) -> None:
        try:
            async with self._client.stream("POST", ask.path, json=ask.body) as answer:
                if answer.status_code != HTTPStatus.OK:
                    raise _refusal(answer.status_code, await answer.aread())
                if ask.stream:
                    await self._stream(ask, answer, send, began)
                else:
                    await self._whole(await answer.aread(), send)
        except (httpx.TransportError, httpx.StreamError):  # of what had not begun
            raise died() from None

    async def _whole(self, content: bytes, send: Send) -> None:
        try:
            value = json.loads(content)
        except ValueError:
            raise died() from None
        self._count(value.get("usage"))
        await _start(send, _JSON, length=len(content))
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, ask: EngineRequest, answer: httpx.Response, send: Send, began: float) -> None:
        """Events are sent on as they come; the first decides whether this becomes a stream or an error."""
        events = _events(answer)
        first = await anext(events, None)
        if first is None:
            raise died()
        if isinstance(first, dict) and "error" in first:
            raise _refusal(_status_of(first["error"]), json.dumps(first))
        await _start(send, _EVENTS)
        stream = _Stream(send, tells_usage=ask.tells_usage)
        try:
            await stream.take(first)
            async for event in events:
                await stream.take(event)
        except (httpx.TransportError, httpx.StreamError):
            pass
        if not stream.is_whole:
            await stream.fail(died())
        await send({"type": "http.response.body", "body": b""})
        self._count(stream.usage)
        if stream.first_text is not None:
            self._metrics.first_token_s.observe(stream.first_text - began)
            if stream.texts > 1:
                self._metrics.per_token_s.observe((stream.last_text - stream.first_text) / (stream.texts - 1))

    def _count(self, usage: Any) -> None:
        self._tokens.add(usage)
        if isinstance(usage, dict):
            self._metrics.prompt_tokens.inc(_count(usage.get("prompt_tokens")))
            self._metrics.generation_tokens.inc(_count(usage.get("completion_tokens")))


class _Stream:
    """The client's side of a stream that has begun."""

    def __init__(self, send: Send, *, tells_usage: bool) -> None:
        self._send = send
        self._tells_usage = tells_usage
        self.usage: Any = None
        self.is_whole = False
        self.failed = False
        self.first_text: float | None = None
        self.last_text = 0.0
        self.texts = 0

    async def take(self, event: _Event | str) -> None:
        if self.failed:
            return
        if isinstance(event, str):
            self.is_whole = event == _DONE
            await self._say(event)
        elif "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {}
            message = str(error.get("message", "the engine reports an error"))
            await self.fail(RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, message, code="engine_error"))
        else:
            await self._chunk(event)

    async def fail(self, error: RequestRefused) -> None:
        if not self.failed:
            self.failed = self.is_whole = True
            await self._say(json.dumps(error.to_json()))

    async def _chunk(self, event: _Event) -> None:
        if event.get("usage"):
            self.usage = event["usage"]
        if not event.get("choices"):  # the chunk that tells the tokens
            if not self._tells_usage or not event.get("usage"):
                return
        elif _has_text(event):
            self.last_text = time.perf_counter()
            self.first_text = self.first_text or self.last_text
            self.texts += 1
        await self._say(json.dumps(event, ensure_ascii=False))

    async def _say(self, data: str) -> None:
        """Raises ClientDisconnect for a client that takes nothing: it would hold its place at the engine for ever."""
        body = f"data: {data}\n\n".encode()
        try:
            async with asyncio.timeout(_TAKES_S):
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            raise ClientDisconnect from None


async def _events(answer: httpx.Response) -> AsyncIterator[_Event | str]:
    """The data of each event, as JSON or as the text `[DONE]`; comments are left out."""
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


def died() -> RequestRefused:
    return RequestRefused(
        HTTPStatus.BAD_GATEWAY,
        "the engine died before this answer was whole; it is being started again",
        code="engine_died",
        retry_after_s=BACK_IN_S,
    )


def unavailable(why: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, why, code="not_ready", retry_after_s=BACK_IN_S)


def _refusal(status: int, content: bytes | str) -> RequestRefused:
    """What the engine answered instead, in OpenAI's form. A body that it does not understand is a 400, whichever server
    it is."""
    try:
        value = json.loads(content)
    except ValueError:
        value = {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    said = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    message = said if isinstance(said, str) else json.dumps(said) if said else f"the engine answers {status}"
    code = error.get("code") if isinstance(error, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    if kind == "exceed_context_size_error":  # llama-server's name for it
        code = "context_length_exceeded"
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    if not HTTPStatus.BAD_REQUEST <= status <= 599:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    return RequestRefused(status, message[:2000], code=code if isinstance(code, str) else None)


def _status_of(error: Any) -> int:
    """The status that an error in a stream would have had: llama-server calls it `code`."""
    told = [error.get("status"), error.get("code")] if isinstance(error, dict) else []
    return next((one for one in told if isinstance(one, int)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _has_text(event: _Event) -> bool:
    choice = event["choices"][0]
    delta = choice.get("delta", choice)
    return any(delta.get(name) for name in ("content", "text", "reasoning_content", "tool_calls"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
