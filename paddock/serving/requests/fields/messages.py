"""Messages of a chat: roles, contents and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from paddock.serving.requests.fields.base import Fields, Name, invalid, unsupported
from paddock.serving.requests.fields.images import check_image_url
from paddock.serving.requests.fields.tools import MAX_CALLS, ToolCall

MAX_MESSAGES: Final = 4096
_MAX_PARTS: Final = 1024
CONTENT_TAGS: Final = ("content-text", "content-list")
"""Names that pydantic puts into an error's location for the two forms of content."""
_OF_ASSISTANT: Final = ("tool_calls", "reasoning_content", "refusal", "audio", "function_call", "annotations")


class ImageUrl(Fields):
    """An image. `detail` has no effect: the projector decides how closely it looks."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None

    @field_validator("url")
    @classmethod
    def _check(cls, value: str) -> str:
        return check_image_url(value)


class ContentPart(Fields):
    """A part of a message's content: a text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, value: Any, info: ValidationInfo) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "image_url" and not (info.context or {}).get("has_vision"):
            raise unsupported("this model takes no images: it has no projector", param="type")
        if isinstance(kind, str) and kind not in {"text", "image_url"}:
            raise unsupported(f"parts of the type {kind[:40]!r} are not supported", param="type")
        return value

    @model_validator(mode="after")
    def _has_its_content(self) -> Self:
        other = "image_url" if self.type == "text" else "text"
        if getattr(self, self.type) is None:
            raise invalid(f"a part of the type {self.type} needs {self.type}", param=self.type)
        if getattr(self, other) is not None:
            raise invalid(f"a part of the type {self.type} has no {other}", param=other)
        return self

    def for_engine(self) -> dict[str, Any]:
        if self.image_url is not None:
            return {"type": "image_url", "image_url": {"url": self.image_url.url}}
        return {"type": "text", "text": self.text}


def _tag(value: Any) -> str:
    return CONTENT_TAGS[isinstance(value, list)]


Content = Annotated[
    Annotated[str, Tag(CONTENT_TAGS[0])]
    | Annotated[list[ContentPart], Field(max_length=_MAX_PARTS), Tag(CONTENT_TAGS[1])],
    Discriminator(_tag),
]


class ChatMessage(Fields):
    """A message. Null content is empty content, as for llama-server; only an assistant's may be left out."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Name | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_what_is_refused(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("role") == "function":
                raise unsupported("the role 'function' is not supported: use 'tool'", param="role")
            for name in ("refusal", "audio", "function_call"):
                if value.get(name) is not None:
                    raise unsupported(f"{name} is not supported in a message", param=name)
        return value

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role != "assistant":
            given = next((name for name in _OF_ASSISTANT if getattr(self, name)), None)
            if given:
                raise invalid(f"only an assistant's message has {given}", param=given)
            if "content" not in self.model_fields_set:
                raise invalid(f"a message of the role {self.role} needs content", param="content")
        elif not self.model_fields_set & {"content", "tool_calls"}:
            raise invalid("an assistant's message needs content or tool_calls", param="content")
        if self.role != "tool" and self.tool_call_id is not None:
            raise invalid("only a tool's message has tool_call_id", param="tool_call_id")
        if self.role != "user" and any(part.type == "image_url" for part in self._parts()):
            raise unsupported("only a user's message may hold images", param="content")
        return self

    @property
    def has_text(self) -> bool:
        if isinstance(self.content, str):
            return bool(self.content.strip())
        return any(part.image_url or (part.text or "").strip() for part in self._parts())

    @property
    def ends_with_image(self) -> bool:
        """Whether no text follows its last image."""
        texts = [part for part in self._parts() if part.image_url or (part.text or "").strip()]
        return bool(texts) and texts[-1].image_url is not None

    def _parts(self) -> Sequence[ContentPart]:
        return self.content if isinstance(self.content, list) else ()

    def for_engine(self) -> dict[str, Any]:
        content = [part.for_engine() for part in self.content] if isinstance(self.content, list) else self.content
        message: dict[str, Any] = {"role": self.role, "content": content or ""}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        if self.tool_calls:
            message["tool_calls"] = [call.for_engine() for call in self.tool_calls]
        return message
