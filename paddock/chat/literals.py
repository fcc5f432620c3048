"""Find the literals of a template that may be printed in some conversations and not in others.

Any literal may end up in a prompt, through variables, macros, lists and filters, and each may do so under a condition:
on the content, length, count, names, roles or tools of a conversation. So every literal counts, wherever it stands,
except for

- text that the template prints itself, outside of any statement: `fidelity` sees it in every rendering
- literals that never reach the output: what is compared with, names of fields, separators, and messages of errors
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from jinja2 import nodes

from paddock.chat.flow import Flow
from paddock.chat.operations import NUMBER_METHODS, SPLIT_METHODS, TRIM_METHODS

_MIN_LIMIT: Final = 128
_DATE_FIELD: Final = re.compile(r"%-?[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Literal:
    """A string of a template, and the line where it stands. Numbers that may be codes of characters are strings too."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Literals:
    """The literals of a template that may be printed in some conversations: its strings and its numbers."""

    strings: tuple[Literal, ...]
    numbers: tuple[Literal, ...]

    @classmethod
    def of(cls, tree: nodes.Template, flow: Flow) -> Self:
        all_nodes = flow.scopes.nodes
        harmless = _unconditional(tree) | _unprinted(all_nodes, flow)
        return cls(tuple(_texts(all_nodes, harmless, flow)), tuple(_numbers(all_nodes, harmless)))


def _numbers(all_nodes: Sequence[nodes.Node], harmless: set[int]) -> Iterator[Literal]:
    for node in all_nodes:
        if isinstance(node, nodes.Const) and id(node) not in harmless and _is_number(node.value):
            yield Literal(node.lineno, str(node.value))


def _is_number(value: object) -> bool:
    """Whether a constant is a number that may be a code; limits are powers of two, which are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return isinstance(value, float) or value < _MIN_LIMIT or value & (value - 1) != 0


def _texts(all_nodes: Sequence[nodes.Node], harmless: set[int], flow: Flow) -> Iterator[Literal]:
    """Each string that may be printed, and each name that may be: those of `dict(name=…)`."""
    reads_kwargs = any(isinstance(node, nodes.Name) and node.name == "kwargs" for node in all_nodes)
    date_formats = set() if "strftime_now" in flow.scopes.bound else _date_formats(all_nodes)
    for node in all_nodes:
        if isinstance(node, nodes.TemplateData) and id(node) not in harmless:
            yield from _lines(node.lineno, node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and id(node) not in harmless:
            text = _DATE_FIELD.sub(" ", node.value) if id(node) in date_formats else node.value
            yield Literal(node.lineno, text)
        elif isinstance(node, nodes.Call) and node.kwargs:
            name = node.node.name if isinstance(node.node, nodes.Name) else ""
            if name != "namespace" and (name not in flow.scopes.macros or reads_kwargs):
                for keyword in node.kwargs:
                    yield Literal(node.lineno, keyword.key)


def _date_formats(all_nodes: Sequence[nodes.Node]) -> set[int]:
    return {
        id(argument)
        for node in all_nodes
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "strftime_now"
        for argument in node.args
    }


def _lines(line: int, text: str) -> Iterator[Literal]:
    """Each line of a text, with its number: text outside of tags may have many."""
    for offset, part in enumerate(text.split("\n")):
        if part.strip():
            yield Literal(line + offset, part)


def _unconditional(tree: nodes.Template) -> set[int]:
    """The literals that the template prints outside of any statement: they are in every rendering."""
    found, pending = set(), [part for node in tree.body if isinstance(node, nodes.Output) for part in node.nodes]
    while pending:
        node = pending.pop()
        if isinstance(node, nodes.Const | nodes.TemplateData):
            found.add(id(node))
        elif isinstance(node, nodes.Concat):
            pending.extend(node.nodes)
        elif isinstance(node, nodes.Add):
            pending.extend([node.left, node.right])
    return found


def _unprinted(all_nodes: Sequence[nodes.Node], flow: Flow) -> set[int]:
    """The literals that never reach the output."""
    found: set[int] = set()
    for node in all_nodes:
        for part in _unprinted_parts(node, flow):
            if isinstance(part, nodes.List | nodes.Tuple):
                found |= {id(part), *map(id, part.items)}
            found.add(id(part))
            if isinstance(part, nodes.Neg):
                found.add(id(part.node))
    return found


def _unprinted_parts(node: nodes.Node, flow: Flow) -> Sequence[nodes.Node]:
    if isinstance(node, nodes.Compare):
        return [node.expr, *(operand.expr for operand in node.ops)]
    if isinstance(node, nodes.Getitem):
        return [node.arg]
    if isinstance(node, nodes.Slice):
        return [part for part in (node.start, node.stop, node.step) if part is not None]
    if isinstance(node, nodes.Test):
        return node.args or ()
    if isinstance(node, nodes.Call):
        return _unprinted_arguments(node, flow)
    if isinstance(node, nodes.Filter):
        if node.name in {"selectattr", "rejectattr", "sort", "unique", "min", "max", "dictsort"}:
            return [*node.args, *(keyword.value for keyword in node.kwargs)]
        if node.name in {"map", "groupby"}:
            return [*node.args[:1], *(keyword.value for keyword in node.kwargs if keyword.key == "attribute")]
        if node.name == "replace":
            return node.args[:1]
    return ()


def _unprinted_arguments(node: nodes.Call, flow: Flow) -> Sequence[nodes.Node]:
    callee = node.node
    if flow.scopes.is_builtin(callee, "raise_exception"):
        return [*node.args, *(part for argument in node.args for part in argument.find_all(nodes.Const))]
    if isinstance(callee, nodes.Getattr) and not flow.scopes.has_function_values:
        if callee.attr in NUMBER_METHODS | SPLIT_METHODS | TRIM_METHODS:
            return node.args
        if callee.attr in {"get", "pop", "replace"}:
            return node.args[:1]
    return ()
