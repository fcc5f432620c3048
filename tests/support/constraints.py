"""Strategies of grammars, JSON schemas and tools for requests: valid ones, invalid ones, and bombs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

COUNTS = st.sampled_from([0, 1, 2, 5, 40, 1000, 2000, 2001, 4000, 10**6, 10**9, 2**31, 2**63, 10**20])
_LETTERS = st.text("ab-]^\\\"'{}()|.é🎉\n", max_size=5)
_RULES = st.sampled_from(["root", "a", "b", "c", "missing"])


def _repeated(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bounds = st.one_of(
        st.sampled_from(["*", "+", "?"]),
        COUNTS.map(lambda count: f"{{{count}}}"),
        COUNTS.map(lambda count: f"{{{count},}}"),
        st.tuples(COUNTS, COUNTS).map(lambda pair: f"{{{pair[0]},{pair[1]}}}"),
    )
    return st.tuples(inner, bounds).map(lambda pair: f"({pair[0]}){pair[1]}")


_EXPRESSION = st.recursive(
    st.one_of(
        _LETTERS.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'),
        st.sampled_from(["[a-z]", "[^a]", "[]", "[^]", "[z-a]", ".", "<[5]>", "!<[5]>", "<|im_end|>", '"\\x41"', '""']),
        _RULES,
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(" ".join),
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: f"({' | '.join(parts)})"),
        _repeated(inner),
    ),
    max_leaves=12,
)


@st.composite
def grammars(draw: st.DrawFn) -> str:
    """A grammar of a few rules, sometimes with a character too many or too few."""
    text = "".join(f"{name} ::= {draw(_EXPRESSION)}\n" for name in draw(st.permutations(["root", "a", "b", "c"])))
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text) - 1))
        text = text[:place] + draw(_LETTERS) + text[place + draw(st.integers(0, 2)) :]
    deep = draw(st.sampled_from([0] * 12 + [500, 60_000]))
    return f'root ::= {"(" * deep}"a"{")" * deep}' if deep else text


_SCALARS = st.one_of(st.none(), st.booleans(), COUNTS, st.floats(allow_nan=False, allow_infinity=False), _LETTERS)
_PATTERNS = st.sampled_from(
    [
        *("^\\w+$", "^(a*)*b$", "^(a|a)*$", "^((a|)*|)*$", "^a{5,2}$", "^a{1000}{1000}$", "^((a{50}){50}){50}$"),
        *("^(?=a)$", "^[^$", "^(a$", "a+", "^|a$", "^[\\d-z]+$", ""),
        *(f"^{'(' * 90}a{')*' * 90}$", f"^{'(' * 2000}a{')' * 2000}$"),
    ]
)
_REFERENCES = st.sampled_from(["#/$defs/a", "#/$defs/b", "#/$defs/none", "#", "#/", "http://127.0.0.1:9/a", "", "a"])
_LEAVES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "minLength": COUNTS,
            "maxLength": COUNTS,
            "pattern": _PATTERNS,
            "format": st.sampled_from(["date", 5]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": COUNTS.map(lambda count: -count), "maximum": COUNTS, "exclusiveMaximum": COUNTS},
    ),
    st.sampled_from(
        [{}, {"type": "boolean"}, {"type": "null"}, {"type": "foo"}, {"type": []}, {"not": {}}, None, True, 5]
    ),
    st.fixed_dictionaries({"enum": st.lists(_SCALARS, max_size=6)}),
    st.fixed_dictionaries({"const": _SCALARS}),
    _REFERENCES.map(lambda name: {"$ref": name}),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, max_size=4)
    names = st.one_of(st.sampled_from(["a", "b", "root", "string", ""]), _LETTERS)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=4)},
            optional={"required": st.lists(names, max_size=3), "additionalProperties": st.one_of(st.booleans(), inner)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"minItems": COUNTS, "maxItems": COUNTS}
        ),
        st.fixed_dictionaries({"type": st.just("array"), "prefixItems": several}),
        *(st.fixed_dictionaries({word: several}) for word in ("anyOf", "oneOf", "allOf")),
        st.tuples(inner, st.integers(2, 60)).map(lambda pair: _nested(*pair)),
    )


def _nested(schema: Any, levels: int) -> Any:
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    """A JSON schema, often with definitions that refer to each other."""
    schema = draw(st.recursive(_LEAVES, _containers, max_leaves=8))
    if isinstance(schema, dict) and draw(st.booleans()):
        inner = st.recursive(_LEAVES, _containers, max_leaves=3)
        schema = {**schema, "$defs": {"a": draw(inner), "b": draw(inner)}}
    return schema


def _tools() -> st.SearchStrategy[dict[str, Any]]:
    name = st.one_of(st.sampled_from(["f", "root", "get_weather"]), _LETTERS)
    function = st.fixed_dictionaries({"name": name}, optional={"parameters": schemas(), "description": _LETTERS})
    tool = st.fixed_dictionaries({"type": st.just("function"), "function": function})
    return st.fixed_dictionaries(
        {"tools": st.lists(tool, min_size=1, max_size=3)},
        optional={
            "tool_choice": st.sampled_from(["auto", "none", "required", "bogus"]),
            "parallel_tool_calls": st.booleans(),
        },
    )


def constrained_bodies() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a request that the engine compiles."""
    return st.one_of(
        grammars().map(lambda grammar: {"grammar": grammar}),
        schemas().map(lambda schema: {"json_schema": schema}),
        schemas().map(
            lambda schema: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        ),
        schemas().map(lambda schema: {"response_format": {"type": "json_object", "schema": schema}}),
        _tools(),
    )
