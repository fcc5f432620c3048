"""A request for a chat completion, as OpenAI's API and llama-server define it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from paddock.serving.requests.fields.base import Fields, Name, Whole, invalid, unsupported
from paddock.serving.requests.fields.messages import MAX_MESSAGES, ChatMessage
from paddock.serving.requests.fields.sampling import MAX_LOGPROBS, SamplingFields
from paddock.serving.requests.fields.tools import MAX_TOOLS, NamedFunction, Tool, ToolChoice

_MAX_TEMPLATE_VARIABLES: Final = 32
_VARIABLE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED: Final = frozenset(
    {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt", "documents", "date_string", "datetime"}
)
"""Template variables that the engine sets itself."""


class JsonSchemaFormat(Fields):
    """A JSON schema in OpenAI's form. `strict` has no effect: an answer always follows the schema."""

    name: Name | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise invalid("the type json_schema needs json_schema", param="json_schema")
        if self.type != "json_schema" and self.json_schema is not None:
            raise invalid("json_schema needs the type json_schema", param="json_schema")
        if self.type != "json_object" and self.schema_ is not None:
            raise invalid("schema needs the type json_object", param="schema")
        return self

    def for_engine(self) -> dict[str, Any]:
        if self.json_schema is None:
            return {"type": self.type, **({} if self.schema_ is None else {"schema": self.schema_})}
        schema = self.json_schema.schema_
        return {"type": self.type, "json_schema": {} if schema is None else {"schema": schema}}


class ChatRequest(SamplingFields):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=_MAX_TEMPLATE_VARIABLES)] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_variables(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, item in (value or {}).items():
            if not _VARIABLE.fullmatch(name) or name in _RESERVED:
                raise invalid(f"{name[:64]!r} cannot be set")
            if name == "enable_thinking" and not isinstance(item, bool | None):
                raise invalid("enable_thinking has to be true or false")
        return value

    @model_validator(mode="after")
    def _tools_agree(self) -> Self:
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) != len(names):
            raise invalid("two tools have the same name", param="tools")
        if isinstance(self.tool_choice, NamedFunction) and self.tool_choice.function.name not in names:
            raise invalid("tool_choice names a function that is not among the tools", param="tool_choice")
        if self.tool_choice == "required" and not names:
            raise invalid("tool_choice is 'required', but there are no tools", param="tool_choice")
        return self

    @model_validator(mode="after")
    def _output_agrees(self) -> Self:
        formatted = self.response_format is not None and self.response_format.type != "text"
        if formatted and (self.grammar is not None or self.json_schema is not None):
            other = "grammar" if self.grammar is not None else "json_schema"
            raise invalid(f"{other} and response_format exclude each other", param=other)
        if self.grammar is not None and self.tools and self.tool_choice != "none":
            raise unsupported("a grammar cannot be used together with tools", param="grammar")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs", param="top_logprobs")
        if self.logprobs and self.tools and self.stream:
            raise unsupported("logprobs are not supported in a stream with tools", param="logprobs")
        return self

    @model_validator(mode="after")
    def _continuation_agrees(self) -> Self:
        """llama-server always continues a last message that is the assistant's."""
        last_is_assistant = self.messages[-1].role == "assistant"
        if last_is_assistant and self.messages[-1].tool_calls:
            raise invalid("the last message calls tools: their results have to follow", param="messages")
        if last_is_assistant and self.continue_final_message is False:
            reason = "the last message is the assistant's, which is always continued"
            raise unsupported(reason, param="continue_final_message")
        if last_is_assistant and self.add_generation_prompt:
            reason = "the last message is the assistant's, which is continued instead"
            raise unsupported(reason, param="add_generation_prompt")
        if self.add_generation_prompt is False and not last_is_assistant and self.messages[-1].ends_with_image:
            reason = "the engine needs a text after an image, which this would leave out"
            raise unsupported(reason, param="add_generation_prompt")
        if self.continue_final_message and not last_is_assistant:
            raise invalid("the last message is not the assistant's", param="continue_final_message")
        return self

    @property
    def has_text(self) -> bool:
        """Whether the prompt has any token, whatever the template adds."""
        return any(message.has_text for message in self.messages)

    def engine_fields(self, context_tokens: int) -> dict[str, Any]:
        fields = super().engine_fields(context_tokens)
        fields["messages"] = [message.for_engine() for message in self.messages]
        fields |= self._tool_fields()
        if self.response_format is not None:
            fields["response_format"] = self.response_format.for_engine()
        if self.logprobs:
            # 0 would give no log-probabilities at all, and null 20 alternatives
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs or 1}
        variables = dict(self.chat_template_kwargs or {})
        if self.enable_thinking is not None:
            variables["enable_thinking"] = self.enable_thinking
        if variables := {name: value for name, value in variables.items() if value is not None}:
            fields["chat_template_kwargs"] = variables
        if self.continue_final_message:
            fields |= {"continue_final_message": self.continue_final_message, "add_generation_prompt": False}
        elif self.add_generation_prompt is not None:
            fields["add_generation_prompt"] = self.add_generation_prompt
        for name in ("reasoning_effort", "reasoning_format"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        return fields

    def _tool_fields(self) -> dict[str, Any]:
        """llama-server takes no named function: the same is a single tool that has to be called, once."""
        tools, choice, parallel = self.tools or [], self.tool_choice, self.parallel_tool_calls
        if isinstance(choice, NamedFunction):
            name = choice.function.name
            tools, choice, parallel = [tool for tool in tools if tool.function.name == name], "required", False
        if not tools:
            return {}
        fields: dict[str, Any] = {
            "tools": [{"type": "function", "function": tool.function.for_engine()} for tool in tools],
        }
        if choice is not None:
            fields["tool_choice"] = choice
        if parallel is not None:
            fields["parallel_tool_calls"] = parallel
        return fields
