"""The HTTP API of the server: OpenAI's chat completions and completions.

    POST /v1/chat/completions, /v1/completions     answers, streamed or not
    GET  /v1/models, /v1/models/NAME               the one model that is served
    GET  /health                                   200 while the engine is ready, else 503; needs no key
    GET  /metrics                                  Prometheus metrics

Errors have OpenAI's form: `{"error": {"message", "type", "param", "code"}}`. No CORS headers are sent, so that web
pages of other origins cannot read answers.
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
from paddock.serving.suspects import Suspects
from paddock.serving.trial import RequestTrial

_LOG = logging.getLogger(__name__)
_MAX_BODY_BYTES = 8 * 2**20
UNAVAILABLE_REASONS = {
    State.STARTING: "the model is being loaded",
    State.RESTARTING: "the engine is being restarted",
    State.STOPPING: "this server is shutting down",
    State.FAILED: "the engine failed, and this server is shutting down",
}


class OpenAIApi:
    """Routes, authentication and admission of requests; `app` builds the ASGI application."""

    def __init__(
        self,
        spec: ServeSpec,
        supervisor: Supervisor,
        proxy: Proxy,
        queue: AdmissionQueue,
        metrics: Metrics,
        *,
        trial: RequestTrial,
        suspects: Suspects,
        api_key: str | None,
    ) -> None:
        self._spec = spec
        self._supervisor = supervisor
        self._proxy = proxy
        self._queue = queue
        self._metrics = metrics
        self._trial = trial
        self._suspects = suspects
        self._api_key = api_key

    def app(self) -> Starlette:
        handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
            RequestRefused: _refused,
            HTTPException: _http_error,
        }
        return Starlette(
            routes=[
                Route("/v1/chat/completions", _CompletionEndpoint(self), methods=["POST"]),
                Route("/v1/completions", _CompletionEndpoint(self), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self._get_metrics),
            ],
            exception_handlers=handlers,
        )

    async def admit(self, request: Request) -> EngineRequest:
        """Authenticate and validate a request. Raises RequestRefused."""
        self._authorize(request)
        self._require_ready()
        engine_request = parse(request.url.path, await _body(request), self._spec)
        self._suspects.check(engine_request)
        await self._trial.check(engine_request)
        self._require_ready()
        return engine_request

    async def answer(self, engine_request: EngineRequest, send: Send) -> None:
        """Send the engine's answer. Raises RequestRefused if nothing was sent yet."""
        await self._proxy.answer(engine_request, send)

    def count(self, path: str, status: int) -> None:
        self._metrics.requests.labels(path, str(status)).inc()

    async def _models(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._authorize(request)
        name = request.path_params["name"]
        if name not in self._spec.names:
            raise RequestRefused(
                HTTPStatus.NOT_FOUND, f"the model {name[:200]!r} is not served here", code="model_not_found"
            )
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        spec = self._spec
        return {
            "id": spec.name,
            "object": "model",
            "created": 0,
            "owned_by": "paddock",
            "revision": spec.revision,
            "variant": spec.variant,
            "quantization": spec.quantization,
            "context_tokens": spec.parameters.n_ctx // spec.parameters.n_seq_max,
        }

    async def _health(self, _request: Request) -> Response:
        state = self._supervisor.state
        ready = state is State.READY
        body = {
            "status": "ok" if ready else str(state),
            "model": self._spec.name,
            "revision": self._spec.revision,
            "restarts": self._supervisor.restarts,
            "running": self._queue.running,
            "waiting": self._queue.waiting,
        }
        return JSONResponse(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _get_metrics(self, request: Request) -> Response:
        self._authorize(request)
        supervisor, metrics, engine = self._supervisor, self._metrics, self._supervisor.engine
        ready = supervisor.state is State.READY
        resident, held = engine.resident_bytes() if engine else (0, 0)
        metrics.up.set(ready)
        metrics.set_restarts(supervisor.restarts)
        metrics.running.set(self._queue.running)
        metrics.waiting.set(self._queue.waiting)
        metrics.resident_bytes.set(resident)
        metrics.held_bytes.set(held)
        metrics.planned_bytes.set(supervisor.planned_bytes)
        metrics.load_s.set(engine.load_s if engine else 0)
        engine_metrics = ""
        if engine and ready:
            try:
                engine_metrics = await engine.own_metrics()
            except httpx.HTTPError as error:
                _LOG.info("the engine's own metrics are not available: %s", error)
        return PlainTextResponse(metrics.text(engine_metrics), media_type=CONTENT_TYPE)

    def _require_ready(self) -> None:
        if self._supervisor.state is not State.READY:
            raise unavailable(UNAVAILABLE_REASONS[self._supervisor.state])

    def _authorize(self, request: Request) -> None:
        if self._api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._api_key.encode()):
            raise RequestRefused(
                HTTPStatus.UNAUTHORIZED,
                "the API key is missing or wrong: send it as a Bearer token",
                code="invalid_api_key",
            )


class _CompletionEndpoint:
    """ASGI endpoint of both completion paths.

    It is an ASGI application rather than a function, since the engine's slot, the answer's bytes and the client's
    disconnect must end together.
    """

    def __init__(self, api: OpenAIApi) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        status, complete = 0, False

        async def send_and_observe(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                complete = not message.get("more_body", False)
            await send(message)

        try:
            engine_request = await self._api.admit(request)
            await _answer_until_disconnect(
                self._api.answer(engine_request, send_and_observe), request, is_complete=lambda: complete
            )
        except RequestRefused as error:
            await as_response(error)(scope, receive, send_and_observe)
        except ClientDisconnect:
            pass
        finally:
            self._api.count(request.url.path, status or 499)  # nginx's status for a client that disconnected


async def _answer_until_disconnect(
    answer: Coroutine[Any, Any, None], request: Request, *, is_complete: Callable[[], bool]
) -> None:
    """Answer, but stop if the client disconnects.

    The request's body was read, so the next message is a disconnect. The HTTP server also sends one after a complete
    answer.
    """
    work = asyncio.create_task(answer)
    disconnect = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() or is_complete():
            await work
    finally:
        disconnect.cancel()
        work.cancel()
        await asyncio.gather(disconnect, work, return_exceptions=True)


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY_BYTES:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {_MAX_BODY_BYTES} bytes"
            )
    return bytes(content)


def as_response(error: RequestRefused) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.to_json(), error.status, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)  # noqa: S101 - as registered in `app`
    return as_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Convert the router's own errors (unknown path or method) to OpenAI's form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered in `app`
    return as_response(RequestRefused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}"))
