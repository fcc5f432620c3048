"""Find the places in a template that take text apart by position, so that it could be put together anew.

`prose` sees every word that a template's literals spell. It would not see `alphabet[0] ~ alphabet[11]`, nor words that
are picked out of longer texts. So text that the author of the template knows (a literal, what a macro prints, a role,
data written as JSON) may not be cut at a position, nor at separators that occur within sentences. What users and tools
write may be, and so may text at markers such as `</think>` and at line breaks: no word comes out that was not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jinja2 import nodes

from paddock.chat.allowlist import ATTRIBUTE_FILTERS
from paddock.chat.assignments import Assignments
from paddock.chat.containers import tested_containers
from paddock.chat.flow import Flow, arguments_of
from paddock.chat.holds import Holds
from paddock.chat.operations import PART_FILTERS, SPLIT_METHODS, TRIM_METHODS

_KNOWN: Final = Holds.TEXT | Holds.KEY
_TEXT_METHODS: Final = frozenset({*SPLIT_METHODS, *TRIM_METHODS, "replace", "format", "join"})
_MARKER_LIKE: Final = re.compile(r"[<>\[\]{}|/]|^\n+$")
_PHRASE: Final = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)+")
_LETTER: Final = re.compile(r"[^\W\d_]")
_PLAIN_FORMAT: Final = re.compile(r"%%|%\(\w+\)s|%0?\d?[sdi]|\{\{|\}\}|\{\w*\}")
_ENDS_OF_VALUES: Final = (nodes.Output, nodes.If, nodes.Test, nodes.Compare, nodes.Operand, nodes.Concat, nodes.Add)
_FORMAT_FIELD: Final = re.compile(r"%|[{}]")


@dataclass(frozen=True, slots=True)
class _Template:
    """Facts by which a cut is judged. `texts` are the literals that may be printed."""

    flow: Flow
    assignments: Assignments
    texts: Sequence[str]
    has_recursion: bool


def find_cuts(
    tree: nodes.Template, flow: Flow, assignments: Assignments, texts: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """Yield (line number, operation) for each operation that takes known text apart. `texts` are the literals that may
    be printed."""
    containers = tested_containers(tree)
    has_recursion = any(isinstance(node, nodes.For) and node.recursive for node in flow.scopes.nodes)
    template = _Template(flow, assignments, texts, has_recursion)
    used_there = _used_where_they_stand(flow)
    for node in flow.scopes.nodes:
        if id(node) not in used_there and _is_taken_method(node, flow):
            yield node.lineno, "a method that is not called where it stands"
        base = _taken_apart(node)
        if base is not None and id(base) in containers:
            continue
        operation = _cut(node, template)
        if operation:
            yield node.lineno, operation


def _used_where_they_stand(flow: Flow) -> frozenset[int]:
    """The identities of the expressions that are called, printed, compared or concatenated where they stand, so that no
    other place can call what they are: `{{ schema["format"] }}` is a field that is printed."""
    used: set[int] = set()
    for node in flow.scopes.nodes:
        if isinstance(node, nodes.Call):
            used.add(id(node.node))
        elif isinstance(node, _ENDS_OF_VALUES):
            used.update(map(id, node.iter_child_nodes()))
    return frozenset(used)


def _is_taken_method(node: nodes.Node, flow: Flow) -> bool:
    """Whether an expression is a method of known text: a call elsewhere would not be seen as one of that method."""
    if isinstance(node, nodes.Getattr):
        return node.attr in _TEXT_METHODS and bool(flow.holds(node.node) & Holds.TEXT)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value in _TEXT_METHODS and bool(flow.holds(node.node) & Holds.TEXT)
    return False


def _taken_apart(node: nodes.Node) -> nodes.Node | None:
    """The value that a node takes items or parts of."""
    if isinstance(node, nodes.For):
        return node.iter
    if isinstance(node, nodes.Getitem | nodes.Filter):
        return node.node
    return None


def _cut(node: nodes.Node, template: _Template) -> str | None:
    if isinstance(node, nodes.Getitem):
        return "a subscript" if _is_cut_by_subscript(node, template) else None
    if isinstance(node, nodes.For):
        return "a loop" if _is_cut_by_loop(node, template.flow) else None
    if isinstance(node, nodes.Assign):
        several = isinstance(node.target, nodes.Tuple) and template.flow.holds(node.node) & (Holds.TEXT | Holds.TYPE)
        return "an assignment to several variables" if several else None
    if isinstance(node, nodes.Call):
        return _cut_by_call(node, template)
    if isinstance(node, nodes.Filter):
        return _cut_by_filter(node, template)
    if isinstance(node, nodes.FilterBlock | nodes.AssignBlock) and node.filter is not None:
        return _cut_by_block_filter(node, template.flow)
    if isinstance(node, nodes.Mod) and isinstance(node.left, nodes.Const) and isinstance(node.left.value, str):
        return _odd_format(node.left)
    if isinstance(node, nodes.Mod) and template.flow.holds(node.left) & Holds.TEXT:
        return "a format string that is no literal"
    return None


def _is_cut_by_subscript(node: nodes.Getitem, template: _Template) -> bool:
    """Whether a subscript is a position in a text. `[:-1]` takes the bracket off of data that was written as JSON."""
    flow = template.flow
    base = flow.holds(node.node)
    if isinstance(node.arg, nodes.Slice):
        is_last = node.arg.start is None and node.arg.step is None and _number(node.arg.stop) == -1
        written = template.assignments.assigned(node.node)
        is_json = bool(written) and all(isinstance(part, nodes.Filter) and part.name == "tojson" for part in written)
        return bool(base & (_KNOWN | Holds.TYPE)) and not (is_last and is_json)
    if not flow.holds(node.arg) & Holds.NUMBER:
        return False
    return bool(base & _KNOWN) or (bool(base & Holds.TYPE) and _number(node.arg) != 0)


def _number(node: nodes.Node | None) -> object:
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const) and isinstance(node.node.value, int):
        return -node.node.value
    return node.value if isinstance(node, nodes.Const) else None


def _is_cut_by_loop(node: nodes.For, flow: Flow) -> bool:
    """Whether a loop goes through the letters of a text, or assigns them to several variables. A parameter may have a
    list of types, so a loop through types is one through letters only if it counts them."""
    iterated = flow.holds(node.iter)
    if _has_pairs(node.iter):
        return False  # a string has no pairs: the loop fails
    if iterated & Holds.TEXT:
        return True
    if iterated & (Holds.TYPE | Holds.KEY) and any(_counts(part, flow) for part in node.find_all(nodes.Expr)):
        return True
    return isinstance(node.target, nodes.Tuple) and bool(iterated & (Holds.TEXTS | Holds.TYPE))


def _counts(node: nodes.Node, flow: Flow) -> bool:
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name == "loop":
        return node.attr in {"index", "index0", "revindex", "revindex0", "cycle"}
    return isinstance(node, nodes.BinExpr) and bool(flow.holds(node) & Holds.NUMBER)


def _has_pairs(node: nodes.Node) -> bool:
    """Whether the items of a value are pairs: those of a mapping, or lists and tuples written in the template."""
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Getattr) and node.node.attr == "items"
    if isinstance(node, nodes.Filter):
        return node.name in {"items", "dictsort"}
    return isinstance(node, nodes.List | nodes.Tuple) and all(
        isinstance(item, nodes.List | nodes.Tuple) for item in node.items
    )


def _cut_by_call(node: nodes.Call, template: _Template) -> str | None:
    if node.dyn_args is not None and template.flow.holds(node.dyn_args) & _KNOWN:
        return "`*` in a call"
    if not isinstance(node.node, nodes.Getattr):
        is_loop = template.has_recursion and not template.flow.scopes.is_own_function(node.node)
        cut = is_loop and any(template.flow.holds(argument) & _KNOWN for argument in node.args)
        return "a recursive loop" if cut else None
    base, method = template.flow.holds(node.node.node), node.node.attr
    described = f"`.{method}()`"
    if method == "format":
        return _odd_formats(node.node.node, template)
    if not base & _KNOWN:
        return None
    if method == "replace":
        return described if not node.args or _occurs(node.args[0], template, within_words=True) else None
    if method in SPLIT_METHODS - {"splitlines"}:
        return described if not node.args or _occurs(node.args[0], template) else None
    if method in TRIM_METHODS:
        return described if any(_has_letters(argument, template) for argument in arguments_of(node)) else None
    return None


def _cut_by_filter(node: nodes.Filter, template: _Template) -> str | None:
    described = f"the filter `{node.name}`"
    if node.node is None:
        return None
    if node.name == "format":
        return _odd_formats(node.node, template)
    base = template.flow.holds(node.node)
    if node.name in ATTRIBUTE_FILTERS and any(map(_is_position, arguments_of(node))):
        return described
    if node.name == "map" and node.args:
        name = node.args[0].value if isinstance(node.args[0], nodes.Const) else None
        known = base & (_KNOWN | Holds.TEXTS | Holds.KEYS)
        if name == "format" or (known and name in PART_FILTERS | {"replace", "trim"}):
            return f"the filter `{name}`"
    if base & Holds.TYPE and node.name in {"first", "last", "list", "reverse", "sort", "batch", "slice"}:
        return described
    if not base & _KNOWN:
        return None
    if node.name in PART_FILTERS:
        return described
    if node.name == "replace":
        return described if not node.args or _occurs(node.args[0], template, within_words=True) else None
    if node.name == "trim":
        return described if any(_has_letters(argument, template) for argument in arguments_of(node)) else None
    return None


def _is_position(node: nodes.Node) -> bool:
    """Whether an argument names an attribute by a position, such as `map(attribute='role.0')`."""
    if not isinstance(node, nodes.Const) or isinstance(node.value, bool):
        return False
    return isinstance(node.value, int) or any(part.isdigit() for part in str(node.value).split("."))


def _cut_by_block_filter(node: nodes.FilterBlock | nodes.AssignBlock, flow: Flow) -> str | None:
    part: nodes.Node | None = node.filter
    while isinstance(part, nodes.Filter):
        if part.name in PART_FILTERS | {"replace", "map", "trim"} and (part.name != "trim" or arguments_of(part)):
            return f"the filter `{part.name}`" if flow.output(node) & Holds.TEXT else None
        part = part.node
    return None


def _literals(node: nodes.Node, assignments: Assignments) -> list[str] | None:
    """The string literals that a value can be; None if it can be anything else."""
    if not assignments.is_literal_text(node) or isinstance(node, nodes.Getattr):
        return None
    if isinstance(node, nodes.Const):
        return [str(node.value)]
    return [str(value.value) for value in assignments.assigned(node) if isinstance(value, nodes.Const)]


def _occurs(node: nodes.Node, template: _Template, *, within_words: bool = False) -> bool:
    """Whether a separator or pattern may occur within a sentence of the template's own text, or within its words; a
    word may also occur in the names of fields."""
    literals = _literals(node, template.assignments)
    if literals is None:
        return True
    inner = [literal for literal in literals if not _MARKER_LIKE.search(literal)]
    if within_words:
        inner = [literal for literal in inner if not literal.strip() or _LETTER.search(literal)]
    return any(
        (_LETTER.search(literal) and not _PHRASE.fullmatch(literal))
        or not literal
        or any(literal in text for text in template.texts)
        for literal in inner
    )


def _has_letters(node: nodes.Node, template: _Template) -> bool:
    literals = _literals(node, template.assignments)
    return literals is None or any(_LETTER.search(text) and not _MARKER_LIKE.search(text) for text in literals)


def _odd_formats(node: nodes.Node, template: _Template) -> str | None:
    if isinstance(node, nodes.Const):
        return _odd_format(node)
    values = (value for value in template.assignments.assigned(node) if isinstance(value, nodes.Const))
    return next((odd for value in values if (odd := _odd_format(value))), None)


def _odd_format(node: nodes.Const) -> str | None:
    """A format string's field that writes a character by its number, or a part of a text."""
    rest = _PLAIN_FORMAT.sub("", str(node.value))
    return "a format string that writes characters or parts of a text" if _FORMAT_FIELD.search(rest) else None
