"""Check a request's grammar, JSON schemas and tools against fixed bounds, before anything compiles them.

Only what can be said from the text alone is checked here: types, sizes, depth, and counts that contradict each other or
that the engine's grammars cannot express. Whether the rest compiles is found out in `trial`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from paddock.serving.requests.parse import RequestRefused
from paddock.serving.trial.alternatives import grammar_alternatives, schema_alternatives

MAX_GRAMMAR_BYTES: Final = 256 << 10
MAX_SCHEMA_DEPTH: Final = 128
MAX_SCHEMA_NODES: Final = 50_000
MAX_SCHEMA_CHARACTERS: Final = 1 << 20
MAX_PATTERN_CHARACTERS: Final = 4096
MAX_REPETITIONS: Final = 2000
"""llama.cpp's MAX_REPETITION_THRESHOLD: the least count that its grammars cannot demand is one more. A larger maximum
is possible: it becomes no maximum."""
MAX_ALTERNATIVES: Final = 2000
_LITERAL_KEYS: Final = frozenset({"const", "enum", "default", "examples"})
"""Keys whose values are data and not schemas."""


def check_constraints(body: Mapping[str, Any]) -> None:
    """Check all fields of a request that the engine compiles into a grammar. Raises RequestRefused, with the field."""
    if body.get("grammar") is not None:
        check_grammar(body["grammar"])
        if body.get("json_schema") is not None:
            raise _refused("grammar", "it excludes json_schema: send one of them")
    for internal in ("grammar_lazy", "grammar_triggers", "grammar_type"):
        if body.get(internal):
            raise _refused(internal, "it is not supported: a grammar of a request applies from the first token")
    for field, schema in schemas_of(body):
        check_schema(field, schema)


def check_grammar(grammar: object) -> None:
    """Check the field `grammar`. Raises RequestRefused."""
    if not isinstance(grammar, str):
        raise _refused("grammar", f"a text in llama.cpp's GBNF is expected, not {_kind(grammar)}")
    if len(grammar.encode(errors="surrogatepass")) > MAX_GRAMMAR_BYTES:
        raise _refused("grammar", f"it has more than {MAX_GRAMMAR_BYTES} bytes")
    if "\0" in grammar:
        raise _refused("grammar", "it contains a NUL character, where the engine would stop reading it")
    if grammar_alternatives(grammar) > MAX_ALTERNATIVES:
        raise _refused("grammar", f"it has more than {MAX_ALTERNATIVES} alternatives at one place")


def schemas_of(body: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield each JSON schema of a request with the name of the field that has it. Raises RequestRefused for a field
    that should have one and has not."""
    if body.get("json_schema") is not None:
        yield "json_schema", body["json_schema"]
    response_format = body.get("response_format")
    if response_format is not None:
        yield from _of_response_format(response_format)
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise _refused("tools", f"a list is expected, not {_kind(tools)}")
    for position, tool in enumerate(tools or ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise _refused("tools", f"tool {position + 1} is no function with a name")
        if function.get("parameters") is not None:
            yield "tools", function["parameters"]


def check_schema(field: str, schema: object) -> None:
    """Check a JSON schema of the field. Raises RequestRefused, which says where in the schema the fault is."""
    if not isinstance(schema, dict):
        raise _refused(field, f"a JSON schema as an object is expected, not {_kind(schema)}")
    nodes = characters = 0
    left: list[tuple[str, object, int, bool]] = [("", schema, 1, False)]
    while left:
        where, value, depth, is_data = left.pop()
        nodes += 1
        if nodes > MAX_SCHEMA_NODES:
            raise _refused(field, f"its schema has more than {MAX_SCHEMA_NODES} values")
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused(field, f"its schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, list):
            left += [(f"{where}/{index}", item, depth + 1, is_data) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            if not is_data:
                _check_keywords(field, where or "/", value)
            characters += sum(map(len, value))
            left += [
                (f"{where}/{key[:40]}", item, depth + 1, is_data or key in _LITERAL_KEYS) for key, item in value.items()
            ]
        if characters > MAX_SCHEMA_CHARACTERS:
            raise _refused(field, f"its schema has more than {MAX_SCHEMA_CHARACTERS} characters")
    if schema_alternatives(schema) > MAX_ALTERNATIVES:
        raise _refused(field, f"its schema has more than {MAX_ALTERNATIVES} alternatives at one place")


def _of_response_format(response_format: object) -> Iterator[tuple[str, object]]:
    field = "response_format"
    if not isinstance(response_format, dict):
        raise _refused(field, f"an object is expected, not {_kind(response_format)}")
    kind = response_format.get("type")
    if kind == "json_object":
        if response_format.get("schema") is not None:
            yield field, response_format["schema"]
    elif kind == "json_schema":
        wrapper = response_format.get("json_schema")
        if not isinstance(wrapper, dict) or wrapper.get("schema") is None:
            raise _refused(field, "type json_schema needs json_schema.schema")
        yield field, wrapper["schema"]
    elif kind != "text":
        raise _refused(field, f"type must be text, json_object or json_schema, not {str(kind)[:40]!r}")


def _check_keywords(field: str, where: str, schema: Mapping[str, Any]) -> None:
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARACTERS:
        raise _refused(field, f"the pattern at {where} has more than {MAX_PATTERN_CHARACTERS} characters")
    for least_key, most_key in (("minLength", "maxLength"), ("minItems", "maxItems")):
        least, most = _count(schema.get(least_key)), _count(schema.get(most_key))
        if least is not None and least > MAX_REPETITIONS:
            raise _refused(
                field, f"{least_key} at {where} is {least}, but the engine repeats at most {MAX_REPETITIONS} times"
            )
        if least is not None and most is not None and least > most:
            raise _refused(field, f"{least_key} at {where} is {least}, which is more than {most_key} {most}")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "a bool", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")


def _refused(field: str, reason: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.BAD_REQUEST, f"{field}: {reason}", code="invalid_value", param=field)
