"""Count how many alternatives a grammar or JSON schema has at one place.

llama.cpp follows all of them at once, each with a stack of its own, and compares each token of the vocabulary with each
stack. Rules that refer to each other can make their number grow exponentially with the length of the text, at the start
or anywhere later, where only a long answer would meet it. The numbers are upper bounds: some may be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_MANY: Final = 10**9
"""No number is counted further."""
_MAX_REFERENCES: Final = 200
"""References inside each other."""
_MAX_PASSES: Final = 200
_UNLIMITED: Final = 2000
"""llama.cpp repeats at most so often, or without a limit."""
_TOKEN: Final = re.compile(
    r"""(?P<space>(?:[ \t\r\n]|\#[^\n]*)+)
    |(?P<rule>[a-zA-Z0-9-]+)[ \t]*::=
    |(?P<name>[a-zA-Z0-9-]+)
    |(?P<literal>"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|!?<[^>\n]*>|\.)
    |(?P<repeat>[*+?]|\{[ \t]*(?P<least>\d{1,30})?[ \t]*(?P<comma>,)?[ \t]*(?P<most>\d{1,30})?[ \t]*\})
    |(?P<open>\()|(?P<close>\))|(?P<or>\|)""",
    re.VERBOSE,
)


class _Item(NamedTuple):
    """Part of a sequence: a rule's name, or "" for characters. `most` is 1 where it is repeated without a limit."""

    rule: str
    least: int
    most: int


_Rules = dict[str, list[list[_Item]]]


def grammar_alternatives(grammar: str) -> int:
    """Return the largest number of alternatives at one place, or 0 for a text that is no grammar."""
    rules = _parse(grammar)
    if rules is None:
        return 0
    empty = _rules_that_may_be_empty(rules)
    counts = _count_starts(rules, empty)
    if counts is None:
        return 0
    most = 0
    for sequences in rules.values():
        starts = 0
        for sequence in sequences:
            following = 0
            for item in reversed(sequence):
                following = min(
                    _MANY, _starts_of(item, counts, empty) + (following if _may_be_empty(item, empty) else 0)
                )
                most = max(most, following)
            starts += following
        most = max(most, min(_MANY, starts))
    return most


def _parse(grammar: str) -> _Rules | None:
    """Return the rules, with one more for each group, or None for a text that is no grammar."""
    rules: _Rules = {}
    open_groups: list[list[list[_Item]]] = []
    alternatives: list[list[_Item]] = []
    position = 0
    while position < len(grammar):
        found = _TOKEN.match(grammar, position)
        if found is None:
            return None
        position = found.end()
        kind = found.lastgroup
        if kind == "space":
            continue
        if kind == "rule" and not open_groups:
            alternatives = rules[found["rule"]] = [[]]
        elif not alternatives or kind == "rule":
            return None
        elif kind == "open":
            open_groups.append(alternatives)
            alternatives = [[]]
        elif kind == "or":
            alternatives.append([])
        elif kind == "close" and open_groups:
            name = f"({len(rules)}"
            rules[name], alternatives = alternatives, open_groups.pop()
            alternatives[-1].append(_Item(name, 1, 1))
        elif not _add_item(alternatives[-1], found):
            return None
    return None if open_groups else rules


def _add_item(sequence: list[_Item], found: re.Match[str]) -> bool:
    """Add an item to a sequence, or the repetition to its last one. Returns whether that is possible."""
    if found.lastgroup == "name":
        sequence.append(_Item(found[0], 1, 1))
    elif found.lastgroup == "literal":
        sequence.append(_Item("", 0 if found[0] == '""' else 1, 1))
    elif found.lastgroup == "repeat" and sequence:
        sequence[-1] = _repeated(sequence[-1], found)
    else:
        return False
    return True


def _repeated(item: _Item, found: re.Match[str]) -> _Item:
    text = found["repeat"]
    least = {"*": 0, "?": 0, "+": 1}.get(text, int(found["least"] or 0))
    most = 1
    if text.startswith("{"):
        most = int(found["most"] or (least if not found["comma"] else 1))
        most = most if most <= _UNLIMITED else 1
    return item._replace(least=min(item.least, least), most=min(_UNLIMITED, item.most * max(least, most, 1)))


def _rules_that_may_be_empty(rules: _Rules) -> frozenset[str]:
    empty: set[str] = set()
    for _ in range(_MAX_PASSES):
        found = {
            name
            for name, sequences in reversed(rules.items())
            if name not in empty and any(all(_may_be_empty(item, empty) for item in sequence) for sequence in sequences)
        }
        if not found:
            break
        empty |= found
    return frozenset(empty)


def _may_be_empty(item: _Item, empty: set[str] | frozenset[str]) -> bool:
    return item.least == 0 or item.rule in empty


def _starts_of(item: _Item, counts: Mapping[str, int], empty: frozenset[str]) -> int:
    number = counts.get(item.rule, 0) if item.rule else 1
    return min(_MANY, number * item.most if item.rule in empty else number)


def _count_starts(rules: _Rules, empty: frozenset[str]) -> dict[str, int] | None:
    """Return with how many alternatives each rule begins, or None for left recursion."""
    counts: dict[str, int] = {}
    in_progress: set[str] = set()
    for root in rules:
        left = [root]
        while left:
            name = left[-1]
            if name in counts or name not in rules:
                left.pop()
                continue
            first = [item for sequence in rules[name] for item in _first_items(sequence, empty)]
            missing = [item.rule for item in first if item.rule in rules and item.rule not in counts]
            if not missing:
                counts[name] = min(_MANY, sum(_starts_of(item, counts, empty) for item in first))
                in_progress.discard(name)
                left.pop()
            elif name in in_progress:
                return None
            else:
                in_progress.add(name)
                left += missing
    return counts


def _first_items(sequence: list[_Item], empty: frozenset[str]) -> list[_Item]:
    """Return the items that a sequence may begin with."""
    first = []
    for item in sequence:
        first.append(item)
        if not _may_be_empty(item, empty):
            break
    return first


def schema_alternatives(root: Mapping[str, Any]) -> int:
    """Return the largest number of alternatives at one place of a JSON schema, within `check_schema`'s other bounds."""
    try:
        return _most_alternatives(root)
    except RecursionError:  # references lead through too many levels
        return _MANY


def _most_alternatives(root: Mapping[str, Any]) -> int:
    counter = _SchemaCounter(root)
    most, left = 0, list[Any]([root])
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            most = max(most, counter.count(value, 0))
            properties = value.get("properties")
            if isinstance(properties, dict):
                most = max(most, len(properties) - len(_names(value.get("required"))))
            left += (item for key, item in value.items() if key not in {"const", "enum", "default", "examples"})
    return most


class _SchemaCounter:
    """Counts with how many alternatives the values of a schema begin."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._counts: dict[str, int] = {}
        self._counts_by_id: dict[int, int] = {}

    def count(self, schema: Any, references: int) -> int:
        if not isinstance(schema, dict):
            return 1
        if id(schema) not in self._counts_by_id:
            self._counts_by_id[id(schema)] = self._count(schema, references)
        return self._counts_by_id[id(schema)]

    def _count(self, schema: dict[str, Any], references: int) -> int:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._of_reference(reference, references)
        for key in ("oneOf", "anyOf"):
            if isinstance(schema.get(key), list):
                return min(_MANY, sum(self.count(item, references) for item in schema[key]))
        kinds = schema.get("type")
        number = len(kinds) if isinstance(kinds, list) else 1
        return number * len(schema["enum"]) if isinstance(schema.get("enum"), list) else number

    def _of_reference(self, reference: str, references: int) -> int:
        if reference not in self._counts:
            if references > _MAX_REFERENCES:
                return _MANY
            self._counts[reference] = 0  # a reference to itself adds nothing
            self._counts[reference] = self.count(self._resolve(reference), references + 1)
        return self._counts[reference]

    def _resolve(self, reference: str) -> Any:
        value: Any = self._root
        for part in reference.split("/")[1:]:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value


def _names(required: object) -> set[str]:
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
