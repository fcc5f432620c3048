"""Find the places in a template where the output depends on the current date.

A value is *dated* if it comes from `strftime_now`. A template may print it, concatenate it and assign it to a variable.
Conditions, comparisons, subscripts, arithmetic, loops and searches on it are reported: the template could behave
differently next year, and no probe that runs today would show that.
"""

from __future__ import annotations

from jinja2 import nodes

_HARMLESS_FILTERS = frozenset(
    {"string", "trim", "upper", "lower", "capitalize", "title", "default", "d", "safe", "tojson", "e", "escape"}
)
_HARMLESS_TESTS = frozenset({"defined", "undefined", "none", "string"})


def key_of(node: nodes.Node) -> str | None:
    """Return the key of an assignment target, a name or `namespace.attribute`; None for other nodes."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


def find_date_dependencies(all_nodes: list[nodes.Node]) -> list[int]:
    """Return the sorted line numbers where control flow or a computation depends on a dated value."""
    if not any(isinstance(node, nodes.Name) and node.name == "strftime_now" for node in all_nodes):
        return []
    dated = _dated_names(all_nodes)
    lines = set()
    for node in all_nodes:
        if isinstance(node, nodes.If | nodes.CondExpr):
            suspects: list[nodes.Node] = _conditions(node.test)
        elif isinstance(node, nodes.Compare):
            suspects = [node.expr, *(operand.expr for operand in node.ops)]
        elif isinstance(node, nodes.For):
            suspects = [node.iter, *([node.test] if node.test else [])]
        elif isinstance(node, nodes.Getitem):
            suspects = [node.arg, node.node]
        elif isinstance(node, nodes.BinExpr) and not isinstance(node, nodes.Add | nodes.And | nodes.Or):
            suspects = [node.left, node.right]
        elif isinstance(node, nodes.Filter) and node.name not in _HARMLESS_FILTERS:
            suspects = [node.node, *(node.args or ())] if node.node else []
        elif isinstance(node, nodes.Test) and node.name not in _HARMLESS_TESTS:
            suspects = [node.node, *(node.args or ())]
        elif isinstance(node, nodes.Call):
            suspects = _call_suspects(node)
        else:
            continue
        if any(_is_dated(suspect, dated) for suspect in suspects):
            lines.add(node.lineno)
    return sorted(lines)


def _call_suspects(node: nodes.Call) -> list[nodes.Node]:
    arguments: list[nodes.Node] = [*node.args, *(keyword.value for keyword in node.kwargs)]
    if isinstance(node.node, nodes.Getattr):
        return [node.node.node, *arguments]
    if isinstance(node.node, nodes.Name) and node.node.name in {"namespace", "dict"}:
        return []
    return arguments


def _conditions(test: nodes.Node) -> list[nodes.Node]:
    """Return the parts of a condition, except for tests whether a date is defined at all."""
    if isinstance(test, nodes.Not):
        return _conditions(test.node)
    if isinstance(test, nodes.And | nodes.Or):
        return _conditions(test.left) + _conditions(test.right)
    return [] if isinstance(test, nodes.Test) and test.name in _HARMLESS_TESTS else [test]


def _dated_names(all_nodes: list[nodes.Node]) -> set[str]:
    """Return the names with a dated value, through any number of assignments. `strftime_now` itself is included."""
    dated = {"strftime_now"}
    while True:
        before = len(dated)
        for node in all_nodes:
            if isinstance(node, nodes.Assign) and _is_dated(node.node, dated):
                targets = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
                dated |= {key for key in map(key_of, targets) if key}
                dated |= _namespace_keys(node, dated)
            elif isinstance(node, nodes.AssignBlock) and any(_is_dated(part, dated) for part in node.body):
                dated |= {key for key in [key_of(node.target)] if key}
            elif isinstance(node, nodes.With):
                dated |= {
                    key
                    for target, value in zip(node.targets, node.values, strict=True)
                    if _is_dated(value, dated) and (key := key_of(target))
                }
        if len(dated) == before:
            return dated


def _namespace_keys(node: nodes.Assign, dated: set[str]) -> set[str]:
    """Return the dated attributes of a namespace: `ns.today` for `set ns = namespace(today=strftime_now(…))`."""
    name, call = key_of(node.target), node.node
    if name is None or not isinstance(call, nodes.Call):
        return set()
    return {f"{name}.{keyword.key}" for keyword in call.kwargs if _is_dated(keyword.value, dated)}


def _is_dated(node: nodes.Node, dated: set[str]) -> bool:
    pending = [node]
    while pending:
        part = pending.pop()
        if key_of(part) in dated:
            return True
        pending.extend(part.iter_child_nodes())
    return False
