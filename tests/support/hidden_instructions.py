"""Chat templates that hide an instruction: under a condition, in a guard, and in a disguise, chosen at random.

An attack consists of three parts, which combine freely:

- a *condition* on the conversation or the date, with a conversation that fulfils it
- a *guard*, which prints a text only under a condition
- a *disguise*, which hides the text from a reader of the template's literals

Each attack works: rendered with its conversation, the template prints the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from tests.support.disguised_text import DISGUISES, SENTENCES
from tests.support.hidden_conditions import CONDITIONS, DATED, Condition
from tests.support.templates import CHATML

NOW = datetime.fromisoformat("2038-12-25T04:45")

GUARDS: dict[str, str] = {
    "if": "{% if C %}{{ T }}{% endif %}",
    "else": "{% if not (C) %}{% else %}{{ T }}{% endif %}",
    "elif": "{% if not (C) %}{% elif 1 %}{{ T }}{% endif %}",
    "conditional": "{{ T if C }}",
    "conditional, turned": "{{ '' if not (C) else T }}",
    "and": "{{ ((C) and T) or '' }}",
    "or": "{{ (not (C) and '') or (T if C else '') }}",
    "index": "{{ ['', T][1 if C else 0] }}",
    "mapping": "{{ {1: T}.get(1 if C else 0, '') }}",
    "mapping, item": "{{ {'y': T, 'n': ''}['y' if C else 'n'] }}",
    "times": "{{ T * (1 if C else 0) }}",
    "loop": "{% for x in [T] if C %}{{ x }}{% endfor %}",
    "range": "{% for x in range(1 if C else 0) %}{{ T }}{% endfor %}",
    "loop, else": "{% for x in ([] if C else [1]) %}{% else %}{{ T }}{% endfor %}",
    "break": "{% for x in [1] %}{% if not (C) %}{% break %}{% endif %}{{ T }}{% endfor %}",
    "continue": "{% for x in [1] %}{% if not (C) %}{% continue %}{% endif %}{{ T }}{% endfor %}",
    "macro": "{% macro say(t) %}{{ t }}{% endmacro %}{% if C %}{{ say(T) }}{% endif %}",
    "macro, default": "{% macro say(t=T) %}{{ t }}{% endmacro %}{{ say() if C }}",
    "macro, inside": "{% macro say(on) %}{% if on %}{{ T }}{% endif %}{% endmacro %}{{ say(C) }}",
    "macro, arguments": "{% macro say() %}{{ varargs|join }}{% endmacro %}{{ say(T if C else '') }}",
    "caller": "{% macro box() %}{{ caller() }}{% endmacro %}{% if C %}{% call box() %}{{ T }}{% endcall %}{% endif %}",
    "caller, called or not": (
        "{% macro box(on) %}{% if on %}{{ caller() }}{% endif %}{% endmacro %}{% call box(C) %}{{ T }}{% endcall %}"
    ),
    "block": "{% set said %}{{ T }}{% endset %}{% if C %}{{ said }}{% endif %}",
    "namespace": "{% set box = namespace(t='') %}{% if C %}{% set box.t = T %}{% endif %}{{ box.t }}",
    "namespace, block": (
        "{% set box = namespace(t='') %}{% if C %}{% set box.t %}{{ T }}{% endset %}{% endif %}{{ box.t }}"
    ),
    "filter": "{% if C %}{% filter trim %}{{ T }}{% endfilter %}{% endif %}",
    "with": "{% with t = (T if C else '') %}{{ t }}{% endwith %}",
    "default": "{{ ('' if C else ' ')|default(T, true) }}",
    "slice": "{{ T[:(999 if C else 0)] }}",
    "cycle": "{% for x in [1, 2] %}{{ loop.cycle('', T if C else '') }}{% endfor %}",
    "replaced": "{{ ('x' if C else '')|replace('x', T) }}",
    "selected": "{{ [T, '']|select('in', [T] if C else [])|join }}",
    "test": "{% if (1 if C else 0) is odd %}{{ T }}{% endif %}",
    "message": "{{ messages[0].content|string ~ (T if C else '') }}",
    "reversed list": "{{ ([T, '']|reverse|list)[1 if C else 0] }}",
    "unpacked": "{% set x, y = ['', T] if C else ['', ''] %}{{ y }}",
}


@dataclass(frozen=True)
class Attack:
    """The template is `head`, which prints the instruction, before a faithful template."""

    name: str
    head: str
    messages: list[dict[str, Any]]
    extra: dict[str, Any]
    shown: str

    @property
    def source(self) -> str:
        return self.head + CHATML

    @property
    def is_dated(self) -> bool:
        return self.name.startswith("date")


def attacks(count: int, seed: int) -> list[Attack]:
    """Return attacks chosen at random. Each condition, guard, disguise and text comes up once before any does twice."""
    random = Random(seed)
    conditions, guards, disguises, texts = (
        _draw(items, random) for items in ([*CONDITIONS, *DATED], list(GUARDS), list(DISGUISES), list(SENTENCES))
    )
    return [_attack(next(conditions), next(guards), next(disguises), next(texts), random) for _ in range(count)]


def _draw(items: list[Any], random: Random) -> Iterator[Any]:
    while True:
        yield from random.sample(items, len(items))


def _attack(condition: Condition, guard: str, disguise: str, text: str, random: Random) -> Attack:
    statements, expression, shown = DISGUISES[disguise](text, random)
    parts = {"C": condition.expression, "T": f"({expression})"}
    head = condition.setup + statements + re.sub(r"\b[CT]\b", lambda match: parts[match[0]], GUARDS[guard])
    return Attack(
        f"{condition.sort}; {guard}; {disguise}",
        head,
        condition.messages,
        {"add_generation_prompt": True, "tools": None, **condition.extra},
        shown,
    )
