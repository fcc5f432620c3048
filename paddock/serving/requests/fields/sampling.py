"""Fields that chats and completions have in common: limits, sampling, and the form of the output.

They are OpenAI's, and those of llama-server (`tools/server/server-schema.cpp`) that are meant for clients. Bounds are
llama.cpp's own where it has some; otherwise they exclude what only costs time or memory.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from paddock.serving.requests.fields.base import MAX_INT32, Fields, Fraction, Whole, invalid

MAX_STOPS: Final = 32
MAX_STOP_CHARS: Final = 1000
MAX_LOGPROBS: Final = 20
MAX_BIASES: Final = 1024
_MAX_BIAS: Final = 100
_MAX_GRAMMAR_CHARS: Final = 256 * 1024
_MAX_SEED: Final = 2**32 - 1
_DAY_MS: Final = 24 * 60 * 60 * 1000
_NOT_FORWARDED: Final = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n_predict"}
)
"""They are forwarded in another form."""

Sampler = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_limit(value: int) -> int:
    if value == 0:
        raise invalid("it has to be at least 1, or -1 for no limit")
    return value


def _parse_bias(value: Any) -> list[tuple[int, float | Literal[False]]] | None:
    """Parse OpenAI's object of token ids, or llama-server's list of pairs, where `false` bans a token."""
    if value is None:
        return None
    if not isinstance(value, dict | list):
        raise invalid("it has to be an object of token ids, or a list of pairs of token id and bias")
    if len(value) > MAX_BIASES:
        raise invalid(f"it has {len(value)} entries, allowed are {MAX_BIASES}")
    pairs = value.items() if isinstance(value, dict) else value
    return [_parse_pair(pair) for pair in pairs]


def _parse_pair(pair: Any) -> tuple[int, float | Literal[False]]:
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise invalid("each entry of the list has to be a pair of token id and bias")
    token, bias = pair
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
        token = int(token)
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= MAX_INT32:
        raise invalid(f"{str(token)[:40]!r} is not a token id")
    if bias is False:
        return token, False
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= _MAX_BIAS:
        raise invalid(f"the bias of token {token} has to be a number from -{_MAX_BIAS} to {_MAX_BIAS}")
    return token, float(bias)


Positive = Annotated[Whole, Field(ge=0, le=MAX_INT32)]
TokenLimit = Annotated[Whole, Field(ge=-1, le=MAX_INT32), AfterValidator(_check_limit)]
Window = Annotated[Whole, Field(ge=-1, le=MAX_INT32)]
StopSequence = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class StreamOptions(Fields):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class SamplingFields(Fields):
    """The common fields."""

    model: Annotated[str, Field(max_length=500)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_INT32)] | None = None
    stop: Annotated[list[StopSequence], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] | None = None
    seed: Annotated[Whole, Field(ge=-1, le=_MAX_SEED)] | None = None
    logit_bias: list[tuple[int, float | Literal[False]]] | None = None
    ignore_eos: bool | None = None

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=MAX_INT32)] | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=100)] | None = None
    xtc_probability: Fraction | None = None
    xtc_threshold: Fraction | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=10)] | None = None
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Window | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Positive | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=40)]], Field(min_length=1, max_length=32)] | None
    ) = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=100)] | None = None
    min_keep: Annotated[Whole, Field(ge=0, le=1000)] | None = None
    samplers: Annotated[list[Sampler], Field(max_length=9)] | None = None
    post_sampling_probs: bool | None = None
    t_max_predict_ms: Annotated[Whole, Field(ge=-1, le=_DAY_MS)] | None = None
    cache_prompt: bool | None = None
    timings_per_token: bool | None = None

    grammar: Annotated[str, Field(max_length=_MAX_GRAMMAR_CHARS)] | None = None
    json_schema: dict[str, Any] | None = None

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _read_logit_bias(cls, value: Any) -> Any:
        return _parse_bias(value)

    @field_validator("logit_bias")
    @classmethod
    def _check_vocabulary(cls, value: Any, info: ValidationInfo) -> Any:
        check_token_ids([token for token, _ in value or []], info)
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        limits = {
            name: limit
            for name in ("max_tokens", "max_completion_tokens", "n_predict")
            if (limit := getattr(self, name)) is not None
        }
        if len(set(limits.values())) > 1:
            raise invalid(f"{' and '.join(limits)} contradict each other", param=next(iter(limits)))
        if self.grammar == "":
            self.grammar = None
        if self.grammar is not None and self.json_schema is not None:
            raise invalid("grammar and json_schema exclude each other", param="grammar")
        return self

    @property
    def token_limit(self) -> int | None:
        """The limit of generated tokens, whichever of its names was used; -1 is none."""
        limits = (self.max_tokens, self.max_completion_tokens, self.n_predict)
        return next((limit for limit in limits if limit is not None), None)

    def engine_fields(self, context_tokens: int) -> dict[str, Any]:
        """The fields for the engine. `context_tokens` is its context for one request: windows are at most that long,
        since the engine allocates them."""
        fields = {name: getattr(self, name) for name in SamplingFields.model_fields if name not in _NOT_FORWARDED}
        fields["max_tokens"] = None if self.token_limit == -1 else self.token_limit
        for window in ("repeat_last_n", "dry_penalty_last_n"):
            if (length := fields[window]) is not None:
                fields[window] = context_tokens if length == -1 else min(length, context_tokens)
        return {name: value for name, value in fields.items() if value is not None}


def check_token_ids(tokens: list[int], info: ValidationInfo) -> None:
    """Raise if a token is not in the vocabulary, whose size the validation's context has, if it is known."""
    size = (info.context or {}).get("vocabulary_tokens")
    beyond = next((token for token in tokens if size is not None and token >= size), None)
    if beyond is not None:
        raise invalid(f"{beyond} is not a token of this model, which has {size}")
