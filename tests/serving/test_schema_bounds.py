"""Fixed bounds of grammars, JSON schemas and tools: refused with the field's name, without compiling anything."""

from __future__ import annotations

from typing import Any

import pytest

from paddock.serving.requests.parse import RequestRefused
from paddock.serving.trial.schema_bounds import MAX_GRAMMAR_BYTES, check_constraints


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def with_schema(schema: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def with_parameters(schema: object) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


VALID = {
    "nothing": {},
    "nulls": {"grammar": None, "json_schema": None, "response_format": None, "tools": None},
    "a grammar": {"grammar": 'root ::= "a"'},
    "a maxLength of 4000": with_schema({"type": "string", "maxLength": 4000}),
    "a pattern": with_schema({"type": "string", "pattern": "^\\w+$"}),
    "sixty levels": with_schema(nested(60)),
    "a property that is called like a keyword": with_schema(
        {"type": "object", "properties": {"minItems": {"type": "integer"}, "pattern": {"type": "string"}}}
    ),
    "a constant that looks like a schema": with_schema({"const": {"minItems": 5, "maxItems": 2}}),
    "a tool without parameters": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "no tools": {"tools": []},
    "text": {"response_format": {"type": "text"}},
    "any object": {"response_format": {"type": "json_object"}},
}

INVALID = {
    "a number for a grammar": ({"grammar": 5}, "grammar"),
    "a long grammar": ({"grammar": "#" * MAX_GRAMMAR_BYTES + "\n"}, "grammar"),
    "a NUL in a grammar": ({"grammar": 'root ::= "\0"'}, "grammar"),
    "a grammar and a schema": ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
    "a grammar with triggers": ({"grammar": 'root ::= "a"', "grammar_triggers": ["a"]}, "grammar_triggers"),
    "a list for a schema": ({"json_schema": []}, "json_schema"),
    "true for a schema": (with_schema(True), "response_format"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "an unknown type of answer": ({"response_format": {"type": "xml"}}, "response_format"),
    "a text for a response format": ({"response_format": "json"}, "response_format"),
    "a deep schema": (with_schema(nested(200)), "response_format"),
    "a schema of many values": ({"json_schema": {"enum": list(range(60_000))}}, "json_schema"),
    "a long constant": ({"json_schema": {"const": "x" * 2**21}}, "json_schema"),
    "a long pattern": (with_schema({"type": "string", "pattern": f"^{'a' * 5000}$"}), "response_format"),
    "too many items": (with_parameters({"type": "array", "minItems": 10**9}), "tools"),
    "more items than allowed": (with_schema({"type": "array", "minItems": 5, "maxItems": 2}), "response_format"),
    "a long shortest text": (with_parameters({"type": "string", "minLength": 4000}), "tools"),
    "a text for tools": ({"tools": "x"}, "tools"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "tools"),
    "a tool that is null": ({"tools": [None]}, "tools"),
    "a list for parameters": (with_parameters([1]), "tools"),
}


@pytest.mark.parametrize("body", VALID.values(), ids=VALID)
def test_what_the_engine_may_be_able_to_compile_passes(body: dict[str, Any]) -> None:
    check_constraints(body)


@pytest.mark.parametrize(("body", "field"), INVALID.values(), ids=INVALID)
def test_what_no_engine_can_compile_is_refused_with_the_name_of_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        check_constraints(body)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, field, "invalid_value")
    assert refused.value.message.startswith(f"{field}: ")
    assert len(refused.value.message) < 300
