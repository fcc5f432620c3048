"""Validate the clients' requests and complete them for the engine.

Every field is honoured, refused by name, or on the list of fields without effect (`fields.policy`). What the engine
gets is built from the validated fields. A chat request gets the snapshot's stop sequences; sampling parameters that the
client omits get the profile's values (temperature, top_p, min_p, repeat_penalty).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from pydantic import ValidationError

from paddock.chat.card import detect_capabilities
from paddock.chat.folding import fold_system_messages
from paddock.chat.template import ChatFormat
from paddock.errors import PaddockError
from paddock.gguf.kind import ModelKind
from paddock.serving.refusal import INVALID, UNSUPPORTED, RequestRefused, bad_request
from paddock.serving.requests.fields.chat import ChatRequest
from paddock.serving.requests.fields.completion import CompletionRequest
from paddock.serving.requests.fields.embedding import EmbeddingRequest, RerankRequest
from paddock.serving.requests.fields.messages import CONTENT_TAGS
from paddock.serving.requests.fields.policy import take_fields
from paddock.serving.requests.json_body import parse_body
from paddock.serving.spec import ServeSpec

__all__ = ["ENDPOINTS", "AdmittedRequest", "EngineRequest", "RequestRefused", "parse"]

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
EMBEDDING, RERANK = "/v1/embeddings", "/v1/rerank"
_MODELS: Final[dict[str, type[ChatRequest | CompletionRequest | EmbeddingRequest | RerankRequest]]] = {
    CHAT: ChatRequest,
    COMPLETION: CompletionRequest,
    EMBEDDING: EmbeddingRequest,
    RERANK: RerankRequest,
}
ENDPOINTS: Final = {CHAT: CHAT, COMPLETION: COMPLETION, EMBEDDING: EMBEDDING, RERANK: RERANK, "/rerank": RERANK}
"""The paths that clients use, and the engine's path for each."""
_ALL_FIELDS: Final = frozenset().union(*(model.model_fields for model in _MODELS.values()))
_TOOL_VARIABLES: Final = ("tools", "tool_calls")
_EFFORT_VARIABLES: Final = ("reasoning_effort", "reasoning_strength")
"""Names that a template which uses tools or `reasoning_effort` holds; llama-server sets the last two alike."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as it is sent to the engine.

    `include_usage` is whether the client wants a final chunk with token usage in its stream.
    """

    path: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool


class AdmittedRequest:
    """A valid request that waits for its engine. It is completed for the revision that answers it, which may be another
    than the one that was served when it came.

    Raises RequestRefused as `parse`.
    """

    def __init__(self, path: str, content: bytes, spec: ServeSpec) -> None:
        self._path = path
        self._content = content
        self.spec = spec
        self._parsed = parse(path, content, spec)

    def for_spec(self, spec: ServeSpec) -> EngineRequest:
        """The request for the engine of this revision. Raises RequestRefused if it names another revision."""
        return self._parsed if spec is self.spec else parse(self._path, self._content, spec)


def parse(path: str, content: bytes, spec: ServeSpec) -> EngineRequest:
    """Validate the body `content` of a request to `path`, and complete it for the engine. Raises RequestRefused."""
    engine_path = ENDPOINTS[path]
    require_kind(engine_path, spec)
    model = _MODELS[engine_path]
    fields = take_fields(parse_body(content), model.model_fields, elsewhere=_ALL_FIELDS)
    context = {"has_vision": spec.has_vision, "vocabulary_tokens": spec.vocabulary_tokens}
    try:
        request = model.model_validate(fields, context=context)
    except ValidationError as error:
        raise _refusal(error) from None
    _require_model(request.model, spec)
    if isinstance(request, EmbeddingRequest | RerankRequest):
        return EngineRequest(engine_path, {"model": spec.name, **request.engine_fields()}, False, False)
    body = _profile_sampling(spec) | request.engine_fields(spec.context_tokens) | {"model": spec.name}
    _check_number(request, spec)
    if isinstance(request, ChatRequest):
        _complete_chat(request, body, spec)
    stream = bool(request.stream)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}  # our own counters always need it
    options = request.stream_options
    return EngineRequest(engine_path, body, stream, bool(options and options.include_usage))


def require_kind(path: str, spec: ServeSpec) -> None:
    """Raise RequestRefused if the served model is of a kind that the endpoint is not for."""
    suitable = _suitable_endpoints(spec.kind)
    if path not in suitable:
        use = f": use {' or '.join(suitable)}" if suitable else ""
        raise RequestRefused(
            HTTPStatus.NOT_FOUND,
            f"{spec.name} is {spec.kind.noun}, which does not answer {path}{use}",
            code="unsupported_endpoint",
            param="model",
        )


def _suitable_endpoints(kind: ModelKind) -> tuple[str, ...]:
    if kind.generates_text:
        return CHAT, COMPLETION
    if kind is ModelKind.RERANKER:
        return (RERANK,)
    return (EMBEDDING,) if kind.embeds else ()


def _require_model(model: str | None, spec: ServeSpec) -> None:
    if model is not None and model not in spec.names:
        raise RequestRefused(
            HTTPStatus.NOT_FOUND,
            f"the model {model[:200]!r} is not served here: this is {spec.name}",
            code="model_not_found",
            param="model",
        )


def _check_number(request: ChatRequest | CompletionRequest, spec: ServeSpec) -> None:
    """Raise RequestRefused for more answers than the engine gives at once, and for several to an empty prompt: there
    llama-server completes the first answer alone and never sends the others."""
    number, at_once = request.n or 1, spec.parameters.n_seq_max
    if number > at_once:
        raise bad_request(f"n is {number}, but {at_once} answers at once are the maximum here", param="n")
    if number > 1 and not request.has_text:
        raise bad_request(f"n is {number}, but the prompt is empty", param="n", code=UNSUPPORTED)


def _complete_chat(request: ChatRequest, body: dict[str, Any], spec: ServeSpec) -> None:
    """Add the snapshot's stop sequences, and fit the chat to its template. Raises RequestRefused for what the template
    would leave out."""
    for param, is_used, words in (
        ("tools", "tools" in body and request.tool_choice != "none", _TOOL_VARIABLES),
        ("messages", any(message.tool_calls for message in request.messages), _TOOL_VARIABLES),
        ("reasoning_effort", request.reasoning_effort not in {None, "none"}, _EFFORT_VARIABLES),
    ):
        if is_used and not any(word in spec.chat.template for word in words):
            what = "tool calls" if param == "messages" else param
            reason = f"{what} would be lost: the chat template of {spec.name} does not use them"
            raise bad_request(reason, param=param, code=UNSUPPORTED)
    has_system = any(message.role in {"system", "developer"} for message in request.messages)
    if has_system and not knows_system_messages(spec.chat):
        body["messages"] = fold_system_messages(body["messages"])
    body["stop"] = list(dict.fromkeys([*(request.stop or []), *spec.chat.stop]))


@lru_cache(maxsize=8)
def knows_system_messages(chat: ChatFormat) -> bool:
    """Whether the chat template renders a system message; it takes some tenths of a second, once. True if the template
    cannot be tried: then the engine decides."""
    try:
        return detect_capabilities(chat.template, bos=chat.bos, eos=chat.eos).system
    except PaddockError:
        return True


def _profile_sampling(spec: ServeSpec) -> dict[str, float]:
    profile = spec.profile
    return {
        "temperature": profile.temperature,
        "top_p": profile.top_p,
        "min_p": profile.min_p,
        "repeat_penalty": profile.repeat_penalty,
    }


def _refusal(error: ValidationError) -> RequestRefused:
    """Convert the first error of a validation; `param` is the path of the field, with dots."""
    first = error.errors(include_url=False, include_input=False)[0]
    own_param = (first.get("ctx") or {}).get("param")
    parts = [str(part) for part in [*first["loc"], *([own_param] if own_param else [])] if part not in CONTENT_TAGS]
    where = ".".join(parts)
    if first["type"] == "extra_forbidden":
        return bad_request(f"{where} is not a supported parameter here", param=where, code=UNSUPPORTED)
    reason = str(first["msg"])
    message = f"{where}: {reason}" if where else reason
    return bad_request(message, param=where or None, code=UNSUPPORTED if first["type"] == UNSUPPORTED else INVALID)
