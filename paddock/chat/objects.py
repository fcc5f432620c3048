"""Find the places in a template that print Python's description of an object instead of text.

`{{ messages.append }}` prints the address of an object, `{{ range }}` the name of a class, `{{ some_macro }}` the names
of a macro, and `{{ messages|map('upper') }}` a generator's address. None of this is text for a model; it differs
between servers, tells an attacker of the process's memory, and spells words that are no literals of the template.

`flow` knows what an expression may hold. `sandbox` refuses at run time what is only known then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jinja2 import nodes

from paddock.chat.flow import Flow, arguments_of
from paddock.chat.holds import OBJECTS, Holds
from paddock.chat.operations import LOOP_ATTRIBUTES, METHOD_NAMES

_PRINTING_FILTERS = frozenset(
    {"string", "e", "escape", "forceescape", "upper", "lower", "capitalize", "title", "trim", "replace", "safe",
     "center", "indent", "truncate", "wordwrap", "striptags", "urlencode"}
)  # fmt: skip
"""Filters that convert a value to a string first."""


def find_printed_objects(all_nodes: Sequence[nodes.Node], flow: Flow) -> Iterator[tuple[int, str]]:
    """Yield (line number, name of the object) where a template prints an object or reads an attribute of a function."""
    callees = {id(node.node) for node in all_nodes if isinstance(node, nodes.Call)}
    for node in all_nodes:
        for printed, objects in _printed(node):
            found = flow.holds(printed) & objects
            if found:
                yield node.lineno, _describe(printed, found)
        if isinstance(node, nodes.Getattr | nodes.Getitem) and id(node) not in callees:
            name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
            if isinstance(name, str) and _is_internal(flow.holds(node.node), name):
                yield node.lineno, f"{_describe(node.node, Holds.FUNCTION)}.{name[:40]}"


def _printed(node: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    """The expressions that a node converts to text, and the objects that must not be among them."""
    if isinstance(node, nodes.Output | nodes.Concat):
        for part in node.nodes:
            yield part, OBJECTS if _is_defined(part) else OBJECTS | Holds.LITERAL
    elif isinstance(node, nodes.Mod):
        yield node.right, OBJECTS
    elif isinstance(node, nodes.Filter):
        if node.name in _PRINTING_FILTERS and node.node is not None:
            yield node.node, OBJECTS if _is_defined(node.node) else OBJECTS | Holds.LITERAL
        elif node.name == "map" and node.args and node.node is not None:
            yield node.node, OBJECTS & ~Holds.GENERATOR
        elif node.name in {"join", "format"}:
            kinds = OBJECTS & ~Holds.GENERATOR if node.name == "join" else OBJECTS
            yield from ((part, kinds) for part in [*([node.node] if node.node else []), *arguments_of(node)])
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in {"format", "join"}:
        kinds = OBJECTS & ~Holds.GENERATOR if node.node.attr == "join" else OBJECTS
        yield from ((part, kinds) for part in arguments_of(node))


def _is_defined(node: nodes.Node) -> bool:
    """Whether an expression is no list or mapping with a name in it, which would be printed as `Undefined` if it is."""
    return not isinstance(node, nodes.List | nodes.Tuple | nodes.Dict) or node.find(nodes.Name) is None


def _is_internal(base: int, name: str) -> bool:
    """Whether a name of a function, class, macro or loop is one that only Python's description of it tells."""
    if base & Holds.LOOP:
        return name not in LOOP_ATTRIBUTES and not base & ~Holds.LOOP
    return bool(base & Holds.FUNCTION) and not base & (Holds.LITERAL | Holds.NAMESPACE)


def _describe(node: nodes.Node, found: int) -> str:
    if isinstance(node, nodes.Name):
        return node.name[:40]
    if isinstance(node, nodes.Getattr) and node.attr in METHOD_NAMES:
        return f"{_describe(node.node, found)}.{node.attr}"
    return "a generator" if found & Holds.GENERATOR else "a function, method or namespace"
