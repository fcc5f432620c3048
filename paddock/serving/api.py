"""What clients see: OpenAI's API over HTTP, the same with either server.

    POST /v1/chat/completions, /v1/completions     answers, streamed or not
    GET  /v1/models, /v1/models/NAME               the one model
    GET  /health                                   200 while the engine is ready, else 503; needs no key
    GET  /metrics                                  for Prometheus

Errors have OpenAI's form: `{"error": {"message", "type", "param", "code"}}`. There are no CORS headers: a web page of
somebody else's may not read answers.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from paddock.serving.admission import AdmissionQueue
from paddock.serving.metrics import CONTENT_TYPE, Metrics
from paddock.serving.proxy import Proxy, unavailable
from paddock.serving.requests import EngineRequest, RequestRefused, parse
from paddock.serving.spec import ServeSpec
from paddock.serving.supervisor import State, Supervisor

_LOG = logging.getLogger(__name__)
_BODY_BYTES = 8 * 2**20
WHY = {
    State.STARTING: "the model is being loaded",
    State.RESTARTING: "the engine is being started again",
    State.STOPPING: "this server is shutting down",
    State.FAILED: "the engine failed, and this server ends",
}


class OpenAIApi:
    def __init__(
        self,
        offer: ServeSpec,
        supervisor: Supervisor,
        relay: Proxy,
        places: AdmissionQueue,
        metrics: Metrics,
        *,
        has_logprobs: bool,
        api_key: str | None,
    ) -> None:
        self._offer = offer
        self._supervisor = supervisor
        self._relay = relay
        self._places = places
        self._metrics = metrics
        self._has_logprobs = has_logprobs
        self._api_key = api_key

    def app(self) -> Starlette:
        handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
            RequestRefused: _refused,
            HTTPException: _http_error,
        }
        return Starlette(
            routes=[
                Route("/v1/chat/completions", _Answers(self), methods=["POST"]),
                Route("/v1/completions", _Answers(self), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self._tell_metrics),
            ],
            exception_handlers=handlers,
        )

    async def admit(self, request: Request) -> EngineRequest:
        """Raises Refused."""
        self._authorize(request)
        if self._supervisor.state is not State.READY:
            raise unavailable(WHY[self._supervisor.state])
        return parse(request.url.path, await _body(request), self._offer, has_logprobs=self._has_logprobs)

    async def answer(self, ask: EngineRequest, send: Send) -> None:
        """Raises Refused while nothing has been sent."""
        await self._relay.answer(ask, send)

    def count(self, path: str, status: int) -> None:
        self._metrics.requests.labels(path, str(status)).inc()

    async def _models(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._authorize(request)
        name = request.path_params["name"]
        if name not in self._offer.names:
            raise RequestRefused(
                HTTPStatus.NOT_FOUND, f"the model {name[:200]!r} is not served here", code="model_not_found"
            )
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        offer = self._offer
        return {
            "id": offer.name,
            "object": "model",
            "created": 0,
            "owned_by": "paddock",
            "revision": offer.revision,
            "variant": offer.variant,
            "quantization": offer.quantization,
            "context_tokens": offer.parameters.n_ctx // offer.parameters.n_seq_max,
        }

    async def _health(self, _request: Request) -> Response:
        state = self._supervisor.state
        ready = state is State.READY
        body = {
            "status": "ok" if ready else str(state),
            "model": self._offer.name,
            "revision": self._offer.revision,
            "restarts": self._supervisor.restarts,
            "running": self._places.running,
            "waiting": self._places.waiting,
        }
        return JSONResponse(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _tell_metrics(self, request: Request) -> Response:
        self._authorize(request)
        supervisor, metrics, engine = self._supervisor, self._metrics, self._supervisor.engine
        ready = supervisor.state is State.READY
        resident, held = engine.resident_bytes() if engine else (0, 0)
        metrics.up.set(ready)
        metrics.set_restarts(supervisor.restarts)
        metrics.running.set(self._places.running)
        metrics.waiting.set(self._places.waiting)
        metrics.resident_bytes.set(resident)
        metrics.held_bytes.set(held)
        metrics.planned_bytes.set(supervisor.planned_bytes)
        metrics.load_s.set(engine.load_s if engine else 0)
        own = ""
        if engine and ready:
            try:
                own = await engine.own_metrics()
            except httpx.HTTPError as error:
                _LOG.info("the engine gives no metrics of its own: %s", error)
        return PlainTextResponse(metrics.text(own), media_type=CONTENT_TYPE)

    def _authorize(self, request: Request) -> None:
        if self._api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            raise RequestRefused(
                HTTPStatus.UNAUTHORIZED,
                "the API key is missing or wrong: send it as a Bearer token",
                code="invalid_api_key",
            )


class _Answers:
    """An ASGI application rather than a function: the place at the engine, the answer's bytes and the client's leaving
    are one story, and end together."""

    def __init__(self, front: OpenAIApi) -> None:
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        status, whole = 0, False

        async def noting(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                whole = not message.get("more_body", False)
            await send(message)

        try:
            ask = await self._front.admit(request)
            await _until_left(self._front.answer(ask, noting), request, is_whole=lambda: whole)
        except RequestRefused as error:
            await as_response(error)(scope, receive, noting)
        except ClientDisconnect:
            pass
        finally:
            self._front.count(request.url.path, status or 499)  # nginx's number for a client that left


async def _until_left(answer: Coroutine[Any, Any, None], request: Request, *, is_whole: Callable[[], bool]) -> None:
    """Answer, and stop when the client has left. The body was read: what comes now is its leaving. The server says the
    same of everyone whose answer is whole."""
    work = asyncio.create_task(answer)
    left = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() or is_whole():
            await work
    finally:
        left.cancel()
        work.cancel()
        await asyncio.gather(left, work, return_exceptions=True)


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _BODY_BYTES:
            raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {_BODY_BYTES} bytes")
    return bytes(content)


def as_response(error: RequestRefused) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.to_json(), error.status, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)  # noqa: S101 - what the table of handlers says
    return as_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router says for itself: no such path, or no such method for it."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what the table of handlers says
    return as_response(RequestRefused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}"))
