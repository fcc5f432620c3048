"""Validate the clients' requests and complete them for the engine.

A chat request gets the
snapshot's stop sequences; sampling parameters that the client omits get the profile's values (temperature, top_p,
min_p, repeat_penalty). Parameters that llama.cpp has beyond OpenAI's API (`grammar`, `top_k`, `repeat_penalty`, …) pass
through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from paddock.gguf.kind import ModelKind
from paddock.serving.spec import ServeSpec

_COMPLETION_TOKENS: Final = 16  # OpenAI's default
Text = Annotated[str, Field(min_length=1)]
_KIND_OF_PATH: Final = {"/v1/embeddings": ModelKind.EMBEDDING, "/v1/rerank": ModelKind.RERANKER}


class RequestRefused(Exception):
    """A request that is answered with an error, in OpenAI's form (`to_json`).

    `retry_after_s` becomes the `Retry-After` header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """The error's `type` in OpenAI's form."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"

    def to_json(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool = False


class _CommonFields(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Literal[1] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalize_max_tokens(cls, value: Any) -> Any:
        """Accept OpenAI's newer name `max_completion_tokens`, and llama.cpp's -1 for no limit."""
        if isinstance(value, dict):
            newer = value.pop("max_completion_tokens", None)
            if value.get("max_tokens") is None and newer is not None:
                value["max_tokens"] = newer
            if value.get("max_tokens") == -1:
                value["max_tokens"] = None
        return value


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    @field_validator("content")
    @classmethod
    def _join_text_parts(
        cls, value: str | list[dict[str, Any]] | None, info: ValidationInfo
    ) -> str | list[dict[str, Any]] | None:
        if not isinstance(value, list):
            return value
        if any(part.get("type") == "image_url" for part in value):
            spec = info.context
            assert isinstance(spec, ServeSpec)  # noqa: S101 - as `parse` passes it
            if not spec.has_vision:
                raise ValueError(f"{spec.name} is served without a projector, so messages may hold no images")
            return value
        other = next((part.get("type") for part in value if part.get("type") != "text"), None)
        if other is not None or not all(isinstance(part.get("text"), str) for part in value):
            raise ValueError(f"only parts of type 'text' are supported, but one is {other!r}")
        return "".join(part["text"] for part in value)

    @field_validator("role")
    @classmethod
    def _rename_developer(cls, value: str) -> str:
        return "system" if value == "developer" else value  # OpenAI's newer name, which no chat template knows


class _Chat(_CommonFields):
    messages: Annotated[list[_Message], Field(min_length=1)]
    logprobs: bool | None = None


class _Completion(_CommonFields):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as it is sent to the engine.

    `include_usage` is whether the client wants a final chunk with token usage in its stream.
    """

    path: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool


def parse(path: str, content: bytes, spec: ServeSpec) -> EngineRequest:
    """Validate the body `content` of a request to `path`, and complete it for the engine. Raises RequestRefused."""
    if path in _KIND_OF_PATH or spec.kind is not ModelKind.TEXT:
        return _parse_other(path, content, spec)
    is_chat = path == "/v1/chat/completions"
    kind: type[_Chat | _Completion] = _Chat if is_chat else _Completion
    try:
        request = kind.model_validate_json(content, context=spec)
    except ValidationError as error:
        raise _refusal(error) from None
    except RecursionError:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body is nested too deeply") from None
    names = (spec.name, f"{spec.name}@{spec.revision}")
    if request.model is not None and request.model not in names:
        raise RequestRefused(
            HTTPStatus.NOT_FOUND,
            f"the model {request.model[:200]!r} is not served here: this is {spec.name}",
            code="model_not_found",
            param="model",
        )
    body = {name: value for name, value in request.model_dump(mode="json").items() if value is not None}
    body |= {name: value for name, value in _profile_sampling(spec).items() if name not in body}
    body["model"] = spec.name
    if is_chat:
        body["stop"] = _with_stops(request.stop, spec.chat.stop)
    else:
        body.setdefault("max_tokens", _COMPLETION_TOKENS)
        if isinstance(body["prompt"], list):
            body["prompt"] = body["prompt"][0]
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    body.pop("stream_options", None)
    if request.stream:
        body["stream_options"] = {"include_usage": True}  # our own counters always need it
    return EngineRequest("/v1/chat/completions" if is_chat else "/v1/completions", body, request.stream, include_usage)


def _parse_other(path: str, content: bytes, spec: ServeSpec) -> EngineRequest:
    """Pass a request to a path that models of one kind have, and refuse it for a model of another kind."""
    if _KIND_OF_PATH.get(path) is not spec.kind:
        message = f"{spec.name} is {spec.kind.noun}, which does not answer {path}"
        raise RequestRefused(HTTPStatus.NOT_FOUND, message, code="unsupported_endpoint")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body is not a JSON object", code="invalid_value")
    return EngineRequest(path, {**body, "model": spec.name}, stream=False, include_usage=False)


def _profile_sampling(spec: ServeSpec) -> dict[str, float]:
    profile = spec.profile
    return {
        "temperature": profile.temperature,
        "top_p": profile.top_p,
        "min_p": profile.min_p,
        "repeat_penalty": profile.repeat_penalty,
    }


def _with_stops(requested: str | list[str] | None, own: tuple[str, ...]) -> list[str]:
    sequences = [requested] if isinstance(requested, str) else requested or []
    return list(dict.fromkeys([*sequences, *own]))


def _refusal(error: ValidationError) -> RequestRefused:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
    reason = str(first["msg"]).removeprefix("Value error, ")
    message = f"{where}: {reason}" if where else reason
    return RequestRefused(HTTPStatus.BAD_REQUEST, message[:500], code="invalid_value", param=where or None)
