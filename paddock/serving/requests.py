"""What a client asks, made whole before the engine sees it: so that both servers understand the same, and refuse the
same with the same words.

A chat gets the snapshot's stop sequences; what the client leaves open is the profile's (temperature, top_p, min_p,
repeat_penalty). What llama.cpp knows beyond OpenAI's API (`grammar`, `top_k`, `repeat_penalty`, …) goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from paddock.serving.spec import ServeSpec

_COMPLETION_TOKENS: Final = 16  # OpenAI's default, and llama-cpp-python's
Text = Annotated[str, Field(min_length=1)]


class RequestRefused(Exception):
    """A request that is not served: an answer in OpenAI's form."""

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
        """OpenAI's `type`."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"

    def to_json(self) -> dict[str, Any]:
        said = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": said}


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool = False


class _Common(BaseModel):
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
    def _unlimited(cls, value: Any) -> Any:
        """OpenAI's newer name for the bound, and llama.cpp's -1 for none."""
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
    def _text(cls, value: str | list[dict[str, Any]] | None) -> str | None:
        if not isinstance(value, list):
            return value
        other = next((part.get("type") for part in value if part.get("type") != "text"), None)
        if other is not None or not all(isinstance(part.get("text"), str) for part in value):
            raise ValueError(f"only parts of the type text are understood, and one is {other!r}")
        return "".join(part["text"] for part in value)

    @field_validator("role")
    @classmethod
    def _known(cls, value: str) -> str:
        return "system" if value == "developer" else value  # OpenAI's newer name for it, which no template knows


class _Chat(_Common):
    messages: Annotated[list[_Message], Field(min_length=1)]
    logprobs: bool | None = None


class _Completion(_Common):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as the engine gets it. `tells_usage`: whether the client wants the tokens at the end of its stream."""

    path: Literal["/v1/chat/completions", "/v1/completions"]
    body: dict[str, Any]
    stream: bool
    tells_usage: bool


def parse(path: str, content: bytes, offer: ServeSpec, *, has_logprobs: bool) -> EngineRequest:
    """Raises Refused."""
    is_chat = path == "/v1/chat/completions"
    kind: type[_Chat | _Completion] = _Chat if is_chat else _Completion
    try:
        asked = kind.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None
    except RecursionError:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body is nested too deeply") from None
    known = (offer.name, f"{offer.name}@{offer.revision}")
    if asked.model is not None and asked.model not in known:
        raise RequestRefused(
            HTTPStatus.NOT_FOUND,
            f"the model {asked.model[:200]!r} is not served here: this is {offer.name}",
            code="model_not_found",
            param="model",
        )
    if asked.logprobs and not has_logprobs:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            "log-probabilities are not told by llama-cpp-python's server: serve with llama-server",
            code="unsupported_parameter",
            param="logprobs",
        )
    # Without nulls: to llama-cpp-python a null is not the default.
    body = {name: value for name, value in asked.model_dump(mode="json").items() if value is not None}
    body |= {name: value for name, value in _of_profile(offer).items() if name not in body}
    body["model"] = offer.name
    if is_chat:
        body["stop"] = _with_stops(asked.stop, offer.chat.stop)
    else:
        body.setdefault("max_tokens", _COMPLETION_TOKENS)
        if isinstance(body["prompt"], list):
            body["prompt"] = body["prompt"][0]
    tells_usage = asked.stream_options is not None and asked.stream_options.include_usage
    body.pop("stream_options", None)
    if asked.stream:
        body["stream_options"] = {"include_usage": True}  # we count, also where the client does not
    return EngineRequest("/v1/chat/completions" if is_chat else "/v1/completions", body, asked.stream, tells_usage)


def _of_profile(offer: ServeSpec) -> dict[str, float]:
    profile = offer.profile
    return {
        "temperature": profile.temperature,
        "top_p": profile.top_p,
        "min_p": profile.min_p,
        "repeat_penalty": profile.repeat_penalty,
    }


def _with_stops(asked: str | list[str] | None, own: tuple[str, ...]) -> list[str]:
    given = [asked] if isinstance(asked, str) else asked or []
    return list(dict.fromkeys([*given, *own]))


def _refusal(error: ValidationError) -> RequestRefused:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
    reason = str(first["msg"]).removeprefix("Value error, ")
    message = f"{where}: {reason}" if where else reason
    return RequestRefused(HTTPStatus.BAD_REQUEST, message[:500], code="invalid_value", param=where or None)
