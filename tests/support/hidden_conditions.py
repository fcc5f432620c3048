"""Conditions on a conversation or the date, under which a hostile chat template prints its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Condition:
    """An expression that is true for a conversation, and the statements that it needs."""

    sort: str
    expression: str
    messages: list[dict[str, Any]]
    setup: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def chat(*contents: str, **more: Any) -> list[dict[str, Any]]:
    turns = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(contents)]
    turns[-1] |= more
    return turns


TOOLS = [{"type": "function", "function": {"name": "buy", "description": "Buys hay.", "parameters": {}}}] * 3
_COUNTER = (
    "{% set seen = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set seen.n = seen.n + 1 %}"
    "{% endif %}{% endfor %}"
)
_MACRO = "{% macro asks(all) %}{% for m in all %}{% if 'invoice' in m.content %}y{% endif %}{% endfor %}{% endmacro %}"
CONDITIONS = [
    Condition("content", "'invoice' in messages[-1].content", chat("my invoice, please")),
    Condition("content", "messages[0]['content'].startswith('Dear')", chat("Dear model")),
    Condition("content", "messages[-1].content|lower|replace('!', '') == 'hello'", chat("Hello!")),
    Condition("content", "messages|selectattr('content', 'equalto', 'hay')|list", chat("hay")),
    Condition("length", "messages[-1].content|length > 4711", chat("x" * 5000)),
    Condition("length", "messages[-1].content.split()|length == 7", chat("a b c d e f g")),
    Condition("length", "messages[0].content|length % 29 == 3", chat("abc")),
    Condition("letters", "messages[-1].content[3:4] == 'q'", chat("xxxq")),
    Condition("letters", "(messages[-1].content|list|last) == '?'", chat("Why?")),
    Condition("letters", "messages[0].content.count('e') > 7", chat("e" * 9)),
    Condition("letters", "messages[0].content.isupper()", chat("LOUD")),
    Condition("letters", "messages[0].content is upper", chat("LOUD")),
    Condition("order", "messages[0].role == 'assistant'", [{"role": "assistant", "content": "Hi"}]),
    Condition("order", "messages|map(attribute='role')|join == 'userassistantuser'", chat("a", "b", "c")),
    Condition("count", "messages|length == 17", chat(*"abcdefghijklmnopq")),
    Condition("count", "messages[5:]", chat(*"abcdefg")),
    Condition("role", "'critic' in messages|map(attribute='role')|list", [{"role": "critic", "content": "Hm"}]),
    Condition(
        "role", "messages|selectattr('role', 'in', ['tool', 'function'])|list", [{"role": "tool", "content": ""}]
    ),
    Condition("name", "messages[-1].name == 'Bob'", chat("a", name="Bob")),
    Condition("name", "messages|map(attribute='name')|select('defined')|list", chat("a", name="Ann")),
    Condition("tools", "tools", chat("a"), extra={"tools": TOOLS}),
    Condition("tools", "tools and tools|length > 2", chat("a"), extra={"tools": TOOLS}),
    Condition("tools", "'buy' in (tools|map(attribute='function.name')|list)", chat("a"), extra={"tools": TOOLS}),
    Condition("shape", "messages[0].content is not string", [{"role": "user", "content": []}]),
    Condition("shape", "messages[0]|length == 4", chat("a", name="b", id="c")),
    Condition("shape", "messages[-1].tool_calls", chat("a", tool_calls=[{"id": "1"}])),
    Condition("setting", "enable_thinking", chat("a"), extra={"enable_thinking": True}),
    Condition("setting", "not add_generation_prompt", chat("a"), extra={"add_generation_prompt": False}),
    Condition("setting", "documents is defined", chat("a"), extra={"documents": []}),
    Condition("macro", "asks(messages)|trim == 'y'", chat("an invoice"), _MACRO),
    Condition("macro", "asks(messages)", chat("an invoice"), _MACRO),
    Condition("namespace", "seen.n > 2", chat(*"abcde"), _COUNTER),
    Condition(
        "loop",
        "late.on",
        chat(*"abcdefgh"),
        "{% set late = namespace(on=false) %}{% for m in messages %}{% if loop.index0 == 6 %}{% set late.on = true %}"
        "{% endif %}{% endfor %}",
    ),
    Condition(
        "loop",
        "late.on",
        chat(*"abcdefgh"),
        "{% set late = namespace(on=false) %}{% for m in messages %}"
        "{% if loop.previtem and loop.revindex == 2 %}{% set late.on = true %}{% endif %}{% endfor %}",
    ),
    Condition(
        "block",
        "kept == 'ac'",
        chat("a", "b", "c"),
        "{% set kept %}{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}{% endset %}",
    ),
]
_DATED = {
    "compared": ("", "strftime_now('%Y') > '2030'"),
    "in a name": ("{% set d = strftime_now('%Y') %}", "d > '2030'"),
    "in another name": ("{% set d = strftime_now('%Y') %}{% set e = d ~ '' %}", "e != '2026'"),
    "in a block": ("{% set d %}{{ strftime_now('%m') }}{% endset %}", "d == '12'"),
    "in a filtered block": ("{% set d | replace('2', '') %}{{ strftime_now('%m') }}{% endset %}", "d"),
    "from a macro": ("{% macro d() %}{{ strftime_now('%m') }}{% endmacro %}", "d() == '12'"),
    "from a macro's default": (
        "{% macro d(x=strftime_now('%m')) %}{% if x == '12' %}y{% endif %}{% endmacro %}",
        "d()",
    ),
    "given to a macro": ("{% macro d(x) %}{{ x == '12' }}{% endmacro %}", "d(strftime_now('%m')) == 'True'"),
    "given to a macro by name": (
        "{% macro d() %}{{ kwargs.x == '12' }}{% endmacro %}",
        "d(x=strftime_now('%m')) == 'True'",
    ),
    "from a caller": (
        "{% macro d() %}{{ 'y' if caller() == '12' }}{% endmacro %}"
        "{% set e %}{% call d() %}{{ strftime_now('%m') }}{% endcall %}{% endset %}",
        "e",
    ),
    "given to a caller": (
        "{% macro d() %}{{ caller(strftime_now('%m')) }}{% endmacro %}"
        "{% set e %}{% call(x) d() %}{{ 'y' if x == '12' }}{% endcall %}{% endset %}",
        "e",
    ),
    "in a namespace": ("{% set ns = namespace(d=strftime_now('%m')) %}", "ns.d == '12'"),
    "set in a namespace": ("{% set ns = namespace(d='') %}{% set ns.d = strftime_now('%m') %}", "ns.d == '12'"),
    "in an alias of a namespace": (
        "{% set ns = namespace(d='') %}{% set ns.d = strftime_now('%m') %}{% set o = ns %}",
        "o.d == '12'",
    ),
    "through a block of a filter": (
        "{% set d %}{% filter replace('12', '') %}{{ strftime_now('%m') }}{% endfilter %}{% endset %}",
        "not d",
    ),
    "with": ("{% set d %}{% with m = strftime_now('%m') %}{{ 'y' if m == '12' }}{% endwith %}{% endset %}", "d"),
    "an alias": ("{% set f = strftime_now %}", "f('%m') == '12'"),
    "in a mapping": ("{% set d = {'m': strftime_now('%m')} %}", "d.m == '12'"),
    "as a key": ("{% set d = {strftime_now('%m'): 'y'} %}", "d['12']"),
    "as a key of `dict`": ("{% set d = dict([[strftime_now('%m'), 'y']]) %}", "d['12']"),
    "in a list": ("{% set d = [strftime_now('%m')] %}", "'12' in d"),
    "a loop": ("{% set d %}{% for c in strftime_now('%m') if c == '1' %}y{% endfor %}{% endset %}", "d"),
    "a number": ("", "strftime_now('%Y')|int > 2030"),
    "arithmetic": ("", "(strftime_now('%Y')|int - 2000) // 30"),
    "its length": ("", "strftime_now('%B')|length == 8"),
    "its start": ("", "strftime_now('%Y').startswith('203')"),
    "a search": ("", "strftime_now('%Y').find('38') > 0"),
    "a slice": ("", "strftime_now('%Y')[2:] == '38'"),
    "trimmed": ("", "not strftime_now('%m')|trim('12')"),
    "trimmed by a method": ("", "not strftime_now('%m').strip('12')"),
    "a default": ("{% set d = strftime_now('%m')|trim('12')|default('y', true) %}", "d == 'y'"),
    "an argument of a test": ("", "'12' is equalto(strftime_now('%m'))"),
    "an argument of a filter": ("", "['12']|select('equalto', strftime_now('%m'))|list"),
    "an argument of a method": ("", "'2038-12'.endswith(strftime_now('%m'))"),
    "a function in a namespace": (
        "{% set ns = namespace(get=0) %}{% set ns.get = strftime_now %}",
        "ns.get('%m') == '12'",
    ),
    "in a recursive loop": (
        "{% set d %}{% for c in ['x'] recursive %}{{ 'y' if c == '1' }}"
        "{{ loop(strftime_now('%m')) if loop.depth < 2 }}{% endfor %}{% endset %}",
        "d",
    ),
    "spread over arguments": (
        "{% macro d(x) %}{{ x == '12' }}{% endmacro %}",
        "d(**{'x': strftime_now('%m')}) == 'True'",
    ),
    "an alias of the caller": (
        "{% macro d() %}{% set c = caller %}{{ 'y' if c() == '12' }}{% endmacro %}"
        "{% set e %}{% call d() %}{{ strftime_now('%m') }}{% endcall %}{% endset %}",
        "e",
    ),
    "set in a namespace by a macro": (
        "{% macro d(n) %}{% set n.d = strftime_now('%m') %}{% endmacro %}{% set ns = namespace(d='') %}{{ d(ns) }}",
        "ns.d == '12'",
    ),
    "in a nested macro": (
        "{% macro d(x) %}{% macro f() %}{{ 'y' if x == '12' }}{% endmacro %}{{ f() }}{% endmacro %}",
        "d(strftime_now('%m'))",
    ),
    "a server's variable": ("", "date_string == '25 Dec 2038'"),
    "a server's variable in another": ("{% set d = date_string|default('', true) %}", "'2038' in d"),
    "another server's variable": ("", "current_date > '2030'"),
}
DATED = [
    Condition(f"date, {name}", expression, chat("a"), setup, {"date_string": "25 Dec 2038", "current_date": "2038"})
    for name, (setup, expression) in _DATED.items()
]
