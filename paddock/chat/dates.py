"""Find the places in a template where the output depends on the current date.

A value is *dated* if it may come from `strftime_now`, or from a variable that servers set to the date. A template may
print it, concatenate it, give it to its own macros and assign it to variables. Everything else that is not known to be
harmless is reported: conditions, comparisons, subscripts, arithmetic, loops, searches and filters on a dated value. The
template could behave differently next year, and no probe that runs today would show that.

No harmless operation makes a text empty on some days only. So it is harmless, too, to ask whether a dated variable is
set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jinja2 import nodes

from paddock.chat.flow import Flow, arguments_of
from paddock.chat.holds import Holds
from paddock.chat.operations import DEFAULT_FILTERS, EXISTENCE_TESTS, METHOD_NAMES, WHOLE_FILTERS


def find_date_dependencies(all_nodes: Sequence[nodes.Node], flow: Flow) -> list[int]:
    """Return the sorted line numbers where control flow or a computation depends on a dated value."""
    lines = set()
    for node in all_nodes:
        if any(flow.holds(suspect) & Holds.DATE for suspect in _suspects(node, flow)) or _filters_dated(node, flow):
            lines.add(node.lineno)
    return sorted(lines)


def _suspects(node: nodes.Node, flow: Flow) -> Iterator[nodes.Node]:
    """The parts of a node that its value or control flow depends on."""
    if isinstance(node, nodes.If | nodes.CondExpr):
        yield from _conditions(node.test)
    elif isinstance(node, nodes.Compare):
        yield from (node.expr, *(operand.expr for operand in node.ops))
    elif isinstance(node, nodes.For):
        yield from (node.iter, *([node.test] if node.test else []))
    elif isinstance(node, nodes.Getitem):
        yield node.arg
        if not _is_field(node.arg):
            yield node.node
    elif isinstance(node, nodes.BinExpr) and not isinstance(node, nodes.Add | nodes.And | nodes.Or):
        yield from (node.left, node.right)
    elif isinstance(node, nodes.UnaryExpr):
        yield from _conditions(node.node)
    elif isinstance(node, nodes.Pair):
        yield node.key
    elif (isinstance(node, nodes.Filter) and not is_harmless_filter(node)) or (
        isinstance(node, nodes.Test) and node.name not in EXISTENCE_TESTS
    ):
        yield from (*([node.node] if node.node else []), *arguments_of(node))
    elif isinstance(node, nodes.Call):
        yield from _call_suspects(node, flow)


def _filters_dated(node: nodes.Node, flow: Flow) -> bool:
    """Whether a block's filter, which has no node of its own for what it filters, changes a dated text."""
    if isinstance(node, nodes.FilterBlock | nodes.AssignBlock) and node.filter is not None:
        found: nodes.Node | None = node.filter
        while isinstance(found, nodes.Filter):
            if not is_harmless_filter(found):
                return bool(flow.output(node) & Holds.DATE)
            found = found.node
    return False


def is_harmless_filter(node: nodes.Filter) -> bool:
    """Whether a filter keeps the letters of a text, so that its result is empty only if the text is."""
    return (
        node.name in WHOLE_FILTERS | DEFAULT_FILTERS or (node.name == "trim" and not arguments_of(node))
    ) and node.dyn_args is None and node.dyn_kwargs is None  # fmt: skip


def _is_field(arg: nodes.Node) -> bool:
    return isinstance(arg, nodes.Const) and isinstance(arg.value, str) and arg.value not in METHOD_NAMES


def _call_suspects(node: nodes.Call, flow: Flow) -> list[nodes.Node]:
    callee = node.node
    spread: list[nodes.Node] = [part for part in (node.dyn_args, node.dyn_kwargs) if part is not None]
    if isinstance(callee, nodes.Getattr):
        return [callee.node, *arguments_of(node)]
    if isinstance(callee, nodes.Name):
        if flow.scopes.is_builtin(callee, "namespace", "dict"):
            return [*node.args, *spread]
        if callee.name in {*flow.scopes.macros, "caller"}:
            return spread
        if flow.scopes.is_builtin(callee, "raise_exception"):
            return []
    return arguments_of(node)


def _conditions(test: nodes.Node) -> list[nodes.Node]:
    """Return the parts of a condition, except for those that ask whether a variable is set."""
    if isinstance(test, nodes.Not):
        return _conditions(test.node)
    if isinstance(test, nodes.And | nodes.Or):
        return _conditions(test.left) + _conditions(test.right)
    is_variable = isinstance(test, nodes.Name) or (
        isinstance(test, nodes.Getattr) and isinstance(test.node, nodes.Name)
    )
    return [] if is_variable or (isinstance(test, nodes.Test) and test.name in EXISTENCE_TESTS) else [test]
