"""Find the expressions of a template that are no strings where they stand, since a condition asked.

Templates take contents as strings and as lists of parts: `{% if content is string %} … {% else %}{% for part in content
%}`. There, the loop goes through parts, not through letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2 import nodes

_NO_STRINGS = frozenset({"mapping", "none", "undefined", "number", "integer", "boolean", "float"})


def tested_containers(tree: nodes.Template) -> set[int]:
    """The ids of the nodes whose value is no string, because a condition around them says so."""
    found: set[int] = set()
    changing = {reference.attr for reference in tree.find_all(nodes.NSRef)}  # a macro may set them meanwhile
    pending: list[tuple[nodes.Node, frozenset[str]]] = [(tree, frozenset())]
    while pending:
        node, known = pending.pop()
        if known:
            path = _path(node)
            if path is not None and path in known and path.rsplit(".", 1)[-1] not in changing:
                found.add(id(node))
        if isinstance(node, nodes.Macro | nodes.CallBlock):
            known = frozenset()
        if isinstance(node, nodes.If):
            pending.append((node.test, known))
            pending += [(part, _kept(known | _excluded(node.test, is_true=True), node.body)) for part in node.body]
            otherwise = known | _excluded(node.test, is_true=False)
            for branch in node.elif_:
                inner = _kept(otherwise | _excluded(branch.test, is_true=True), branch.body)
                pending.append((branch.test, otherwise))
                pending += [(part, inner) for part in branch.body]
                otherwise |= _excluded(branch.test, is_true=False)
            pending += [(part, _kept(otherwise, node.else_)) for part in node.else_]
        elif isinstance(node, nodes.CondExpr):
            pending.append((node.test, known))
            pending.append((node.expr1, known | _excluded(node.test, is_true=True)))
            if node.expr2 is not None:
                pending.append((node.expr2, known | _excluded(node.test, is_true=False)))
        else:
            pending += [(part, known) for part in node.iter_child_nodes()]
    return found


def _excluded(test: nodes.Node, *, is_true: bool) -> frozenset[str]:
    """The paths that are no strings if a condition is true, or false."""
    if isinstance(test, nodes.Not):
        return _excluded(test.node, is_true=not is_true)
    if isinstance(test, nodes.And if is_true else nodes.Or):
        return _excluded(test.left, is_true=is_true) | _excluded(test.right, is_true=is_true)
    if isinstance(test, nodes.Test):
        path = _path(test.node)
        if path and ((test.name == "string" and not is_true) or (test.name in _NO_STRINGS and is_true)):
            return frozenset({path})
    return frozenset()


def _kept(known: frozenset[str], body: Iterable[nodes.Node]) -> frozenset[str]:
    """Facts that still hold in a branch: none about a variable that the branch assigns."""
    if not known:
        return known
    assigned = set(_assigned(body))
    return frozenset(path for path in known if path.split(".", 1)[0] not in assigned)


def _assigned(body: Iterable[nodes.Node]) -> Iterator[str]:
    pending = list(body)
    while pending:
        node = pending.pop()
        if (isinstance(node, nodes.Name) and node.ctx in {"store", "param"}) or isinstance(node, nodes.NSRef):
            yield node.name
        pending.extend(node.iter_child_nodes())


def _path(node: nodes.Node) -> str | None:
    """A name and its fields, such as `message.content`; None for other expressions."""
    fields: list[str] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getattr):
            fields.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            fields.append(node.arg.value)
        else:
            return None
        node = node.node
    return ".".join([node.name, *reversed(fields)])
