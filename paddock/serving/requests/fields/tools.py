"""Tools that a model may call, the choice among them, and the calls in earlier answers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from paddock.serving.requests.fields.base import Fields, Name, Whole, invalid, unsupported
from paddock.serving.requests.json_body import InvalidJson, parse_text

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 128


class Function(Fields):
    """A function. `strict` has no effect: the arguments of a call always follow the parameters' schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def for_engine(self) -> dict[str, Any]:
        fields = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {name: value for name, value in fields.items() if value is not None}


class Tool(Fields):
    type: Literal["function"]
    function: Function


class FunctionName(Fields):
    name: Name


class NamedFunction(Fields):
    type: Literal["function"]
    function: FunctionName


def _check_choice(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") not in ("function", None):
        raise unsupported("the only object that is supported is one that names a function")
    if not isinstance(value, dict) and value not in ("none", "auto", "required"):
        raise invalid("it has to be 'none', 'auto', 'required', or an object that names a function")
    return value


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedFunction, BeforeValidator(_check_choice)]


class CalledFunction(Fields):
    """A called function. `arguments` are JSON text; clients that send the object itself mean the same."""

    name: Name
    arguments: str | None = None

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and value.strip():
            try:
                parse_text(value)
            except InvalidJson as error:
                raise invalid(f"the text {error}") from None
        return value


class ToolCall(Fields):
    """A call in an earlier answer. `index` is its place in a stream, where clients leave it in."""

    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["function"] | None = None
    function: CalledFunction
    index: Whole | None = None

    def for_engine(self) -> dict[str, Any]:
        arguments = self.function.arguments or ""
        call: dict[str, Any] = {
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments if arguments.strip() else "{}"},
        }
        return {**call, "id": self.id} if self.id is not None else call
