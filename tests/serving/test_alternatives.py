"""The number of alternatives at one place of a grammar or schema is counted without following them."""

from __future__ import annotations

from typing import Any

import pytest

from paddock.serving.trial.alternatives import grammar_alternatives, schema_alternatives

DOUBLING = "".join(f'r{n} ::= r{n + 1} "a" | r{n + 1} "b"\n' for n in range(60)) + 'r60 ::= "c"'
GRAMMARS = {
    'root ::= "a"': 1,
    'root ::= "a" | "b" | [c-d]': 3,
    'root ::= x y\nx ::= "a" | "b"\ny ::= "c" | "d" | "e"': 3,
    'root ::= x? y\nx ::= "a" | "b"\ny ::= "c" | "d" | "e"': 5,
    'root ::= x{0,3} y # more\nx ::= "a" | ""\ny ::=\n  "c"\n  | "d"': 8,
    'root ::= ("a" | ("b" | "c"))* "d"': 4,
    'root ::= "a" root | "b"': 2,
    f'root ::= "a"\n{DOUBLING}': 10**9,
    f"root ::= [a-z]{{100}} r0\n{DOUBLING}": 10**9,
    "root ::= " + " | ".join(f'"{number}"' for number in range(3000)): 3000,
    'root ::= root "a"': 0,
    'root ::= ("a"': 0,
    "no grammar": 0,
    "": 0,
    "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000: 1,
    "\n".join(f"r{number} ::= r{number + 1}" for number in range(5000)): 0,
}


@pytest.mark.parametrize(("grammar", "number"), GRAMMARS.items(), ids=lambda value: str(value)[:30])
def test_alternatives_of_a_grammar(grammar: str, number: int) -> None:
    assert grammar_alternatives(grammar) == number


def references(levels: int) -> dict[str, Any]:
    """A schema of 2^levels alternatives."""
    defs: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "string"}}}


SCHEMAS: dict[str, tuple[dict[str, Any], int]] = {
    "a text": ({"type": "string"}, 1),
    "an enum": ({"enum": [1, 2, 3]}, 3),
    "an enum inside": ({"type": "array", "items": {"enum": [1, 2, 3]}}, 3),
    "alternatives of alternatives": ({"anyOf": [{"enum": [1, 2]}, {"oneOf": [{}, {"type": "null"}]}]}, 4),
    "types": ({"type": ["string", "null"], "enum": [1, 2]}, 4),
    "optional properties": ({"properties": {"a": {}, "b": {}, "c": {}}, "required": ["a"]}, 2),
    "a list of itself": ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/anyOf/1"}}]}, 2),
    "a reference to itself": ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, 1),
    "references in powers of two": (references(10), 1024),
    "more of them": (references(60), 10**9),
    "references through many levels": (references(5000), 10**9),
    "a reference to nothing": ({"$ref": "#/$defs/a/5"}, 1),
    "data that looks like a schema": ({"const": {"anyOf": [1, 2, 3]}}, 1),
    "wrong types": ({"anyOf": 5, "type": 7, "enum": "x", "properties": [], "required": 3, "$ref": None}, 1),
}


@pytest.mark.parametrize(("schema", "number"), SCHEMAS.values(), ids=SCHEMAS)
def test_alternatives_of_a_schema(schema: dict[str, Any], number: int) -> None:
    assert schema_alternatives(schema) == number
