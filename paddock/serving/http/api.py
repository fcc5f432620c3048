"""The HTTP API of the server: OpenAI's chat completions, completions and embeddings, and reranking.

    POST /v1/chat/completions, /v1/completions     answers, streamed or not
    POST /v1/embeddings, /v1/rerank, /rerank       of models of that kind
    GET  /v1/models, /v1/models/NAME               the one model that is served
    GET  /health                                   200 while requests are accepted, else 503; needs no key
    GET  /metrics                                  Prometheus metrics

Errors have OpenAI's form: `{"error": {"message", "type", "param", "code"}}`. One setting decides which origins' pages
may use the model, by default none: CORS headers are sent to them, and others are refused (`access`).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from paddock.serving.admission import AdmissionQueue
from paddock.serving.engine.supervisor import State
from paddock.serving.http.access import AccessFilter
from paddock.serving.http.allowed_hosts import AllowedHosts
from paddock.serving.http.bodies import BodyReader
from paddock.serving.http.content_type import require_json
from paddock.serving.http.engine_errors import without_paths
from paddock.serving.http.error_response import REVISION_HEADER, as_response
from paddock.serving.http.proxy import Proxy, unavailable
from paddock.serving.metrics import CONTENT_TYPE, Metrics
from paddock.serving.refusal import RequestRefused
from paddock.serving.requests.parse import ENDPOINTS, AdmittedRequest
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.revision import ServedRevision
from paddock.serving.switch.revision_switch import RevisionSwitch
from paddock.serving.switch.watch import WatchReport

_LOG = logging.getLogger(__name__)
_CORS_AGE_S = 600
ELSEWHERE = {
    "/v1/responses": "/v1/chat/completions",
    "/v1/messages": "/v1/chat/completions",
    "/v1/audio": "",
    "/v1/images": "",
    "/v1/moderations": "",
    "/v1/files": "",
    "/v1/batches": "",
    "/v1/assistants": "/v1/chat/completions",
    "/v1/threads": "/v1/chat/completions",
    "/v1/fine_tuning": "",
}
"""Endpoints of OpenAI's and Anthropic's APIs that are not served, and the one to use instead."""
UNAVAILABLE_REASONS = {
    State.STARTING: "the model is being loaded",
    State.RESTARTING: "the engine is being restarted",
    State.DAMAGED: "the stored files of the model were found damaged: repair them with `paddock verify --repair`",
    State.STOPPING: "this server is shutting down",
    State.FAILED: "the engine failed, and this server is shutting down",
}


class OpenAIApi:
    """Routes, authentication and admission of requests; `app` builds the ASGI application."""

    def __init__(
        self,
        switch: RevisionSwitch,
        proxy: Proxy,
        queue: AdmissionQueue[ServedRevision],
        metrics: Metrics,
        *,
        api_key: str | None,
        bodies: BodyReader,
        hosts: AllowedHosts,
        cors_origins: tuple[str, ...] = (),
        watch_report: Callable[[], WatchReport | None] = lambda: None,
    ) -> None:
        self._switch = switch
        self._proxy = proxy
        self._queue = queue
        self._metrics = metrics
        self._api_key = api_key
        self._bodies = bodies
        self._hosts = hosts
        self._cors_origins = cors_origins
        self._watch_report = watch_report

    @property
    def _spec(self) -> ServeSpec:
        return self._switch.current.spec

    def app(self) -> Starlette:
        handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
            RequestRefused: _refused,
            HTTPException: _http_error,
            Exception: _failed,
        }
        return Starlette(
            routes=[
                *(Route(path, _CompletionEndpoint(self), methods=["POST"]) for path in ENDPOINTS),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self._get_metrics),
            ],
            exception_handlers=handlers,
            middleware=self._middleware(),
        )

    def _middleware(self) -> list[Middleware]:
        """The filter of hosts and origins, and CORS for the origins that it lets through.

        Credentials are not allowed: a key is sent in a header, not a cookie. A page of a public address may be allowed
        to use a private one, which some browsers ask about.
        """
        access = Middleware(AccessFilter, hosts=self._hosts, origins=self._cors_origins)
        if not self._cors_origins:
            return [access]
        return [
            access,
            Middleware(
                CORSMiddleware,
                allow_origins=self._cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                allow_private_network=True,
                expose_headers=["retry-after", REVISION_HEADER],
                max_age=_CORS_AGE_S,
            ),
        ]

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[AdmittedRequest]:
        """Authenticate and validate a request, as a context manager that ends when it is answered. Raises
        RequestRefused."""
        self._authorize(request)
        require_json(request.headers)
        self._require_available()
        async with self._bodies.read(request) as content:
            self._require_available()
            revision = self._switch.current
            admitted = await asyncio.to_thread(AdmittedRequest, request.scope["path"], content, revision.spec)
            await revision.check(admitted.for_spec(revision.spec))
            self._require_available()  # a trial may take seconds
            yield admitted

    async def answer(self, engine_request: AdmittedRequest, send: Send) -> None:
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
            "kind": spec.kind,
            "context_tokens": spec.context_tokens,
        }

    async def _health(self, _request: Request) -> Response:
        state, spec = self._switch.state, self._spec
        watch = self._watch_report()
        watched = {**watch.to_json(), "reason": without_paths(watch.reason)} if watch else None  # no key is needed
        body = {
            "status": "ok" if state is State.READY else str(state),
            "model": spec.name,
            "variant": spec.variant,
            "revision": spec.revision,
            "restarts": self._switch.restarts,
            "running": self._queue.running,
            "waiting": self._queue.waiting,
            "watch": watched,
        }
        available = self._switch.accepts_requests
        return JSONResponse(body, HTTPStatus.OK if available else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _get_metrics(self, request: Request) -> Response:
        self._authorize(request)
        supervisor, metrics = self._switch.current.supervisor, self._metrics
        engine, ready = supervisor.engine, self._switch.state is State.READY
        resident, held = engine.resident_bytes() if engine else (0, 0)
        metrics.up.set(ready)
        metrics.set_revision(self._spec.variant, self._spec.revision)
        metrics.set_restarts(self._switch.restarts)
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

    def _require_available(self) -> None:
        if not self._switch.accepts_requests:
            raise unavailable(UNAVAILABLE_REASONS[self._switch.state])

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
    """ASGI endpoint of the paths that the engine answers.

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
            async with self._api.admit(request) as engine_request:
                await _answer_until_disconnect(
                    self._api.answer(engine_request, send_and_observe), request, is_complete=lambda: complete
                )
        except RequestRefused as error:
            await as_response(error)(scope, receive, send_and_observe)
        except ClientDisconnect:
            pass
        finally:
            self._api.count(scope["path"], status or 499)  # nginx's status for a client that disconnected


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


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)  # noqa: S101 - as registered in `app`
    return as_response(error)


async def _failed(_request: Request, _error: Exception) -> Response:
    """Answer after a fault of this server, which Starlette then raises."""
    return as_response(RequestRefused(HTTPStatus.BAD_GATEWAY, "this server failed to answer", code="server_error"))


async def _http_error(request: Request, error: Exception) -> Response:
    """Convert the router's own errors (unknown path or method) to OpenAI's form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered in `app`
    path = str(request.scope["path"])
    message, code = f"{request.method} {path[:200]}: {error.detail}", None
    known = next((one for one in ELSEWHERE if path == one or path.startswith(f"{one}/")), None)
    if known is not None:
        use = ELSEWHERE[known]
        message, code = f"{path[:200]} is not served here" + (f": use {use}" if use else ""), "unsupported_endpoint"
    response = as_response(RequestRefused(error.status_code, message, code=code))
    response.headers.update(error.headers or {})
    return response
