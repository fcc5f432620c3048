"""A request for a completion of a prompt: OpenAI's older API."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator

from paddock.serving.requests.fields.base import TokenId, Whole, invalid
from paddock.serving.requests.fields.sampling import MAX_LOGPROBS, SamplingFields, check_token_ids

DEFAULT_TOKENS: Final = 16
"""OpenAI's default limit."""


class CompletionRequest(SamplingFields):
    """`prompt` is one text, or one list of tokens."""

    prompt: str | Annotated[list[TokenId], Field(min_length=1)]
    logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _take_only_prompt(cls, value: Any) -> Any:
        """Take the text or the tokens out of a list of one, and refuse several."""
        if not isinstance(value, str | list):
            raise invalid("it has to be a text or a list of tokens")
        if isinstance(value, str) or not value or not isinstance(value[0], str | list):
            return value
        if len(value) > 1:
            raise invalid(f"there are {len(value)} prompts, but a request can have one only")
        return value[0]

    @field_validator("prompt")
    @classmethod
    def _check_vocabulary(cls, value: str | list[int], info: ValidationInfo) -> str | list[int]:
        if isinstance(value, list):
            check_token_ids(value, info)
        return value

    @property
    def has_text(self) -> bool:
        """Whether the prompt has any token, whatever the vocabulary."""
        return bool(self.prompt.strip() if isinstance(self.prompt, str) else self.prompt)

    def engine_fields(self, context_tokens: int) -> dict[str, Any]:
        fields = super().engine_fields(context_tokens) | {"prompt": self.prompt}
        if self.logprobs is not None:
            fields["logprobs"] = self.logprobs or 1  # 0 would give no log-probabilities at all
        if self.token_limit is None:
            fields["max_tokens"] = DEFAULT_TOKENS
        return fields
