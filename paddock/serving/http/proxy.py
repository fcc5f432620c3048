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
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import httpx
from httpx_sse import EventSource
from starlette.requests import ClientDisconnect
from starlette.types import Send

from paddock.serving.admission import AdmissionQueue, QueueFull, WaitAborted
from paddock.serving.http.cut_text import CutCharacterFilter, drop_cut_character
from paddock.serving.http.engine_errors import engine_refusal, error_refusal
from paddock.serving.http.error_response import REVISION_HEADER
from paddock.serving.metrics import Metrics
from paddock.serving.observations import RunningAnswer
from paddock.serving.refusal import RequestRefused
from paddock.serving.requests.parse import AdmittedRequest, EngineRequest
from paddock.serving.switch.revision import ServedRevision
from paddock.serving.usage import token_count

RETRY_AFTER_S = 5
"""`Retry-After` while the engine is being restarted."""
_SEND_TIMEOUT_S = 60.0
"""How long a client may stop reading once the send buffers are full."""
_DONE = "[DONE]"
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_Event = dict[str, Any]


class Proxy:
    """Forward requests to the engine, each in its turn of the queue, and record metrics and usage."""

    def __init__(self, queue: AdmissionQueue[ServedRevision], metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics

    async def answer(self, request: AdmittedRequest, send: Send) -> None:
        """Wait for a slot, forward the request, and send the answer. Raises RequestRefused if nothing was sent yet."""
        began = time.perf_counter()
        try:
            async with self._queue.slot() as revision:
                self._metrics.queue_s.observe(time.perf_counter() - began)
                try:
                    with revision.observe(began) as observed:
                        engine_request = request.for_spec(revision.spec)
                        if revision.spec is not request.spec:  # the server has switched since it was admitted
                            await revision.check(engine_request)
                        await revision.render_trial.check(engine_request)
                        await self._answer(engine_request, revision, send, observed)
                except RequestRefused as error:
                    error.revision = revision.label
                    raise
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

    async def _answer(
        self, request: EngineRequest, revision: ServedRevision, send: Send, observed: RunningAnswer
    ) -> None:
        try:
            request = await revision.tool_format.fit(request)
            body = {**request.body, "timings_per_token": True} if request.stream else request.body
            async with (
                revision.suspects.running(request) as run,
                revision.client.stream("POST", request.path, json=body) as answer,
            ):
                observed.sent(request.path, request.body, run.prompt)
                if answer.status_code != HTTPStatus.OK:
                    content = await answer.aread()
                    run.answered = True
                    raise engine_refusal(answer.status_code, content, request.body)
                if request.stream:
                    run.answered = await self._stream(request, answer, revision, send, observed)
                else:
                    content = await answer.aread()
                    run.answered = True
                    await self._send_complete(content, revision, send, observed)
        except (httpx.TransportError, httpx.StreamError):  # before anything was sent to the client
            raise engine_died() from None

    async def _send_complete(
        self, content: bytes, revision: ServedRevision, send: Send, observed: RunningAnswer
    ) -> None:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise engine_died() from None
        if drop_cut_character(value):
            content = json.dumps(value, ensure_ascii=False).encode()
        self._count(revision, value.get("usage"))
        observed.given(value.get("timings"), value.get("usage"))
        await _start(send, revision, _JSON, length=len(content))
        await send({"type": "http.response.body", "body": content})

    async def _stream(
        self,
        request: EngineRequest,
        answer: httpx.Response,
        revision: ServedRevision,
        send: Send,
        observed: RunningAnswer,
    ) -> bool:
        """Forward events as they arrive; the first one decides whether the answer is a stream or an error. Returns
        whether the engine has sent all of it."""
        events = _events(answer)
        first = await anext(events, None)
        if first is None:
            raise engine_died()
        if isinstance(first, dict) and "error" in first:
            raise error_refusal(first["error"], request.body)
        await _start(send, revision, _EVENTS)
        stream = _ClientStream(send, request)
        try:
            await stream.forward(first)
            async for event in events:
                await stream.forward(event)
        except (httpx.TransportError, httpx.StreamError):
            pass
        is_whole = stream.is_complete
        if not is_whole:
            await stream.fail(engine_died())
        await send({"type": "http.response.body", "body": b""})
        self._count(revision, stream.usage)
        if stream.error is None:
            observed.given(stream.timings, stream.usage, first_text=stream.first_text)
        else:
            observed.failed(stream.error)
        if stream.first_text is not None:
            self._metrics.first_token_s.observe(stream.first_text - observed.arrived)
            if stream.texts > 1:
                self._metrics.per_token_s.observe((stream.last_text - stream.first_text) / (stream.texts - 1))
        return is_whole

    def _count(self, revision: ServedRevision, usage: Any) -> None:
        revision.usage.add(usage)
        if isinstance(usage, dict):
            self._metrics.prompt_tokens.inc(token_count(usage.get("prompt_tokens")))
            self._metrics.generation_tokens.inc(token_count(usage.get("completion_tokens")))


class _ClientStream:
    """The client's side of a stream whose headers were sent."""

    def __init__(self, send: Send, request: EngineRequest) -> None:
        self._send = send
        self._request = request
        self._cut_characters = CutCharacterFilter(
            max_tokens=request.body.get("max_tokens"), with_timings=bool(request.body.get("timings_per_token"))
        )
        self.usage: Any = None
        self.is_complete = False
        self.timings: Any = None
        self.error: RequestRefused | None = None
        self.first_text: float | None = None
        self.last_text = 0.0
        self.texts = 0

    async def forward(self, event: _Event | str) -> None:
        if self.error is not None:
            return
        if isinstance(event, str):
            self.is_complete = event == _DONE
            await self._send_event(event)
        elif "error" in event:
            await self.fail(error_refusal(event["error"], self._request.body))
        else:
            await self._chunk(event)

    async def fail(self, error: RequestRefused) -> None:
        if self.error is None:
            self.error, self.is_complete = error, True
            await self._send_event(json.dumps(error.to_json()))

    async def _chunk(self, event: _Event) -> None:
        self.timings = event.get("timings") or self.timings
        self._cut_characters.apply(event)
        if event.get("usage"):
            self.usage = event["usage"]
        if not event.get("choices"):  # the chunk with token usage
            if not self._request.include_usage or not event.get("usage"):
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
    """Yield the data of each server-sent event, parsed as JSON, or the text `[DONE]`. Ends at an event that is neither.
    Raises httpx.TransportError."""
    async with aclosing(EventSource(answer).aiter_sse()) as events:
        async for event in events:
            if event.data == _DONE:
                yield event.data
                return
            try:
                value = json.loads(event.data)
            except (ValueError, RecursionError):
                return
            if isinstance(value, dict):
                yield value


async def _start(send: Send, revision: ServedRevision, content_type: bytes, *, length: int | None = None) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    headers.append((REVISION_HEADER.encode(), revision.label.encode()))
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


def _has_text(event: _Event) -> bool:
    choice = event["choices"][0]
    delta = choice.get("delta", choice)
    return any(delta.get(name) for name in ("content", "text", "reasoning_content", "tool_calls"))
