"""The assignments of a template: what a name can hold, as far as the syntax tree tells it.

`ast_audit` asks two questions: whether a value may be text that the template builds, which could spell a forbidden
name, and whether a value can only be a macro of the template, which may be called from a list or mapping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from jinja2 import nodes

from paddock.chat import allowlist


def key_of(node: nodes.Node) -> str | None:
    """Return the key of an assignment target, a name or `namespace.attribute`; None for other nodes."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


@dataclass(frozen=True, slots=True)
class Assignments:
    """The assignments of a template: all names that it binds, and for each name (or `namespace.attribute`) the values
    assigned to it. `macros` are the names of macros; `opaque` are the names that are also bound to values that are not
    in `values`, such as the items of a loop.
    """

    bound: frozenset[str]
    values: dict[str, list[nodes.Node]]
    macros: frozenset[str]
    opaque: frozenset[str]

    @classmethod
    def of(cls, all_nodes: list[nodes.Node]) -> Self:
        bound: set[str] = set()
        values: dict[str, list[nodes.Node]] = {}
        macros = frozenset(node.name for node in all_nodes if isinstance(node, nodes.Macro))
        targets = {id(node.target) for node in all_nodes if isinstance(node, nodes.Assign | nodes.AssignBlock)}
        opaque: set[str] = set()
        for node in all_nodes:
            if isinstance(node, nodes.Macro) or (isinstance(node, nodes.Name) and node.ctx in {"store", "param"}):
                bound.add(node.name)
                if isinstance(node, nodes.Name) and id(node) not in targets:
                    opaque.add(node.name)
            elif isinstance(node, nodes.Assign):
                name = key_of(node.target)
                if name:
                    values.setdefault(name, []).append(node.node)
                    if isinstance(node.node, nodes.Call) and _is_namespace(node.node):
                        for keyword in node.node.kwargs:
                            values.setdefault(f"{name}.{keyword.key}", []).append(keyword.value)
            elif isinstance(node, nodes.AssignBlock):
                name = key_of(node.target)
                if name:
                    values.setdefault(name, []).append(nodes.Concat([]))  # rendered text counts as built
        return cls(frozenset(bound), values, macros, frozenset(opaque))

    def is_macro(self, node: nodes.Node, *, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a value can only be a macro of the template, or undefined. Macros are checked like the rest."""
        if isinstance(node, nodes.CondExpr):
            return self.is_macro(node.expr1, seen=seen) and (node.expr2 is None or self.is_macro(node.expr2, seen=seen))
        is_method = isinstance(node, nodes.Getattr) and node.attr in allowlist.METHODS | allowlist.MUTATIONS
        if (
            isinstance(node, nodes.Getitem | nodes.Getattr)
            and not is_method
            and self.holds_macros(node.node, seen=seen)
        ):
            return True
        if isinstance(node, nodes.Name) and node.name in self.macros and node.name not in self.values:
            return node.name not in self.opaque
        return self._every_value(node, self.is_macro, seen)

    def holds_macros(self, node: nodes.Node, *, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a value can only be a list or mapping of macros."""
        if isinstance(node, nodes.List | nodes.Tuple):
            return all(self.is_macro(item, seen=seen) for item in node.items)
        if isinstance(node, nodes.Dict):
            return all(self.is_macro(pair.value, seen=seen) for pair in node.items)
        if isinstance(node, nodes.Add):
            return self.holds_macros(node.left, seen=seen) and self.holds_macros(node.right, seen=seen)
        if isinstance(node, nodes.CondExpr):
            return self.holds_macros(node.expr1, seen=seen) and (
                node.expr2 is None or self.holds_macros(node.expr2, seen=seen)
            )
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self.holds_macros(node.node, seen=seen)
        return self._every_value(node, self.holds_macros, seen)

    def _every_value(self, node: nodes.Node, check: Callable[..., bool], seen: frozenset[str]) -> bool:
        """Whether all values that are assigned to a name pass the check; a name that is being checked does."""
        name = key_of(node)
        if name is None or name not in self.values:
            return False
        base = name.split(".")[0]
        if base in self.opaque or (base != name and not all(map(_is_namespace, self.values.get(base, [node])))):
            return False
        return name in seen or all(check(value, seen=seen | {name}) for value in self.values[name])

    def builds_text(self, node: nodes.Node, *, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a value may be text that the template builds, which could spell a forbidden name."""
        if isinstance(node, nodes.Concat | nodes.Mod):
            return True
        if isinstance(node, nodes.Add | nodes.Mul | nodes.CondExpr | nodes.Or | nodes.And):
            parts = list(node.iter_child_nodes())
            textual = isinstance(node, nodes.Add | nodes.Mul) and any(
                isinstance(part, nodes.Const) and isinstance(part.value, str) for part in parts
            )
            return textual or any(self.builds_text(part, seen=seen) for part in parts)
        if isinstance(node, nodes.Filter):
            return node.name in allowlist.TEXT_BUILDING_FILTERS
        if isinstance(node, nodes.Call):
            return isinstance(node.node, nodes.Getattr) and node.node.attr in allowlist.TEXT_BUILDING_METHODS
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Slice) and isinstance(node.node, nodes.Const)
        name = key_of(node)
        if name is None or name in seen:
            return False
        return any(self.builds_text(value, seen=seen | {name}) for value in self.values.get(name, ()))

    def assigned(self, node: nodes.Node) -> list[nodes.Node]:
        """The values that are assigned to a name, as far as `values` has them."""
        name = key_of(node)
        return self.values.get(name, []) if name else []

    def is_literal_text(self, node: nodes.Node) -> bool:
        """Whether a value can only be a string literal of the template."""
        if isinstance(node, nodes.Const):
            return isinstance(node.value, str)
        name, values = key_of(node), self.assigned(node)
        if name is None or name.split(".")[0] in self.opaque:
            return False
        return bool(values) and all(isinstance(value, nodes.Const) and isinstance(value.value, str) for value in values)


def _is_namespace(node: nodes.Node) -> bool:
    """Whether a value is `namespace(…)` or `dict(…)`, with named arguments alone."""
    return (
        isinstance(node, nodes.Call)
        and isinstance(node.node, nodes.Name)
        and node.node.name in {"namespace", "dict"}
        and not node.args
    )
