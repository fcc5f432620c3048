"""The variables of a template: which names are the same variable, and what a call may call.

A macro or call block has its own variables: its parameters and what is assigned in it. All other names are variables of
the whole template, wherever they are assigned.
"""

from __future__ import annotations

import re
from typing import Final

from jinja2 import nodes

from paddock.chat.operations import METHOD_NAMES

BUILTIN_FUNCTIONS: Final = frozenset({"range", "dict", "namespace", "raise_exception", "caller", "strftime_now"})
_NO_MACROS: Final = (BUILTIN_FUNCTIONS | {"loop"}) - {"caller"}
"""Names of functions that call no macro of the template."""

DATE_NAMES: Final = frozenset(
    {
        "strftime_now", "date_string", "datetime", "date", "time", "now", "today", "timestamp", "current_date",
        "current_time", "current_datetime", "utcnow",
    }
)  # fmt: skip
"""Variables that servers set to the date, or to a function that returns it."""
_DATE_LIKE: Final = re.compile(r"date|time|today|(?<![a-z])now(?![a-z])|year|month|weekday|hour|minute|clock|calendar")
_NO_DATES: Final = re.compile(r"update|candidate|validate|runtime|timeout")


class Scopes:
    """The variables of one template. `nodes` are all nodes of its tree, and `bound` are the names that it binds."""

    def __init__(self, tree: nodes.Node) -> None:
        self.nodes: list[nodes.Node] = []
        self.bound: set[str] = set()
        self.macros: dict[str, list[nodes.Macro]] = {}
        self._scopes: dict[int, tuple[str, ...]] = {}
        self._parameters: set[str] = set()
        self._walk(tree)
        self._values = self._assigned_values()
        self.has_function_values = self._find_function_values()
        """Whether a function is used other than by calling its name: then any item of a mapping may be one."""

    def key(self, node: nodes.Name) -> str:
        """The variable that a name is assigned to: that of the innermost macro that assigns it, or the template's."""
        return self.keys(node)[-1]

    def keys(self, node: nodes.Name) -> tuple[str, ...]:
        """The variables that a name may read, from the template's to that of the innermost macro."""
        return tuple(scope + node.name for scope in ("", *self._scopes.get(id(node), ())))

    def parameters(self, node: nodes.Macro | nodes.CallBlock) -> list[str]:
        return [_scope_of(node) + argument.name for argument in node.args]

    def other_arguments(self, node: nodes.Macro | nodes.CallBlock) -> list[str]:
        """The variables of the arguments beyond the parameters."""
        return [_scope_of(node) + name for name in ("varargs", "kwargs")]

    def parameter(self, node: nodes.Macro, argument: int | str) -> str:
        """The variable that an argument is bound to, by its position or name."""
        keys, (positional, named) = self.parameters(node), self.other_arguments(node)
        if isinstance(argument, int):
            return keys[argument] if argument < len(keys) else positional
        key = _scope_of(node) + argument
        return key if key in keys else named

    def is_parameter(self, node: nodes.Name) -> bool:
        """Whether a name is a parameter of the macro or call block that it stands in, whatever it is elsewhere."""
        return self.key(node) in self._parameters

    def is_builtin(self, node: nodes.Node, *names: str) -> bool:
        """Whether an expression is one of these names, and the template does not bind it."""
        return isinstance(node, nodes.Name) and node.name in names and node.name not in self.bound

    def is_own_function(self, node: nodes.Node) -> bool:
        """Whether an expression is the name of a macro of the template, or of a function that every template has."""
        return isinstance(node, nodes.Name) and (node.name in self.macros or self.is_builtin(node, *BUILTIN_FUNCTIONS))

    def is_namespace(self, node: nodes.Node) -> bool:
        """Whether an expression is a name that statements only ever bind to `namespace(…)`."""
        if not isinstance(node, nodes.Name):
            return False
        values = [value for key in self.keys(node) for value in self._values.get(key, ())]
        return bool(values) and all(
            isinstance(value, nodes.Call) and self.is_builtin(value.node, "namespace") for value in values
        )

    def may_be_date(self, name: str) -> bool:
        """Whether a variable may hold the date: a known name, or one that reads like it and is bound nowhere."""
        return name in DATE_NAMES or (
            name not in self.bound and _DATE_LIKE.search(_NO_DATES.sub("", name.lower())) is not None
        )

    def callees(self, callee: nodes.Node) -> list[nodes.Macro]:
        """The macros that a call may call: all of them unless it is known which."""
        if isinstance(callee, nodes.Name) and callee.name in self.macros:
            return self.macros[callee.name]
        if self.is_builtin(callee, *_NO_MACROS) or (self.is_builtin(callee, "caller") and not self.has_function_values):
            return []
        if isinstance(callee, nodes.Getattr) and callee.attr in METHOD_NAMES and not self.has_function_values:
            return []
        return [macro for macros in self.macros.values() for macro in macros]

    def _walk(self, tree: nodes.Node) -> None:
        pending: list[tuple[nodes.Node, dict[str, tuple[str, ...]]]] = [(tree, {})]
        while pending:
            node, local = pending.pop()
            self.nodes.append(node)
            if isinstance(node, nodes.Macro | nodes.CallBlock):
                if isinstance(node, nodes.Macro):
                    self.macros.setdefault(node.name, []).append(node)
                    self.bound.add(node.name)
                else:
                    pending.append((node.call, local))
                self._parameters.update(self.parameters(node))
                own = {name: (*local.get(name, ()), _scope_of(node)) for name in _bound_names(node)}
                pending.extend((child, {**local, **own}) for child in [*node.args, *node.defaults, *node.body])
                continue
            if isinstance(node, nodes.Name):
                self._scopes[id(node)] = local.get(node.name, ())
                if node.ctx in {"store", "param"}:
                    self.bound.add(node.name)
            elif isinstance(node, nodes.NSRef):
                self.bound.add(node.name)
            pending.extend((child, local) for child in node.iter_child_nodes())

    def _assigned_values(self) -> dict[str, list[nodes.Node | None]]:
        """The expressions that are assigned to each variable; None for what a loop, block or call binds."""
        values: dict[str, list[nodes.Node | None]] = {}
        simple = [node for node in self.nodes if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name)]
        targets = {id(node.target): node.node for node in simple}
        for node in self.nodes:
            if isinstance(node, nodes.Name) and node.ctx in {"store", "param"}:
                values.setdefault(self.key(node), []).append(targets.get(id(node)))
        return values

    def _find_function_values(self) -> bool:
        used = {id(node.node) for node in self.nodes if isinstance(node, nodes.Call | nodes.Getattr | nodes.Test)}
        names = {*BUILTIN_FUNCTIONS, "loop", *self.macros}
        return any(
            isinstance(node, nodes.Name)
            and node.ctx == "load"
            and node.name in names
            and id(node) not in used
            and not self.is_parameter(node)
            for node in self.nodes
        )


def _scope_of(node: nodes.Macro | nodes.CallBlock) -> str:
    return f"{id(node)}:"


def _bound_names(node: nodes.Macro | nodes.CallBlock) -> set[str]:
    """The parameters of a macro or call block, and what is assigned in it."""
    found, pending = {"varargs", "kwargs", "caller"} | {argument.name for argument in node.args}, list(node.body)
    while pending:
        part = pending.pop()
        if isinstance(part, nodes.Name) and part.ctx in {"store", "param"}:
            found.add(part.name)
        if not isinstance(part, nodes.Macro | nodes.CallBlock):
            pending.extend(part.iter_child_nodes())
    return found
