"""Follow values through a template's syntax tree: which expression may hold a date, text of the template, or an object.

The analysis over-approximates. It ignores the order of statements and all conditions: a name may hold each value that
is assigned to it anywhere, also as a macro's parameter, a loop's variable or a namespace's attribute. An operation that
is not known to lose a property keeps it. Only names of macros have a scope of their own: parameters and what is
assigned in a macro or call block.

`dates`, `objects` and `cuts` decide where a property must not arrive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from jinja2 import nodes

from paddock.chat.holds import OBJECTS, Holds
from paddock.chat.operations import (
    ELEMENT_FILTERS,
    ELEMENT_METHODS,
    FIELD_NAMES,
    GENERATOR_FILTERS,
    MAPPING_METHODS,
    METHOD_NAMES,
    NUMBER_FILTERS,
    NUMBER_METHODS,
    SPLIT_METHODS,
    TEXT_FILTERS,
    VIEW_METHODS,
)
from paddock.chat.scopes import BUILTIN_FUNCTIONS, Scopes

_AUTHORED_FIELDS: Final = {"role": Holds.TEXT, "type": Holds.TYPE}
"""Fields of messages and tools whose values the author of a template knows."""
_TEXTS_AND_LISTS: Final = frozenset(
    {"messages", "tools", "documents", "content", "name", "role", "tool_calls", "reasoning_content"}
)
_GROUP_FIELDS: Final = frozenset({"grouper", "list"})
_LETTER: Final = re.compile(r"[^\W\d_]")
_PRINTED: Final = Holds.DATE | Holds.TEXT
_MAX_ROUNDS: Final = 64
_BINDING: Final = (
    nodes.Assign, nodes.AssignBlock, nodes.With, nodes.For, nodes.Macro, nodes.CallBlock, nodes.Call, nodes.Dict,
)  # fmt: skip
_ANY_FIELD: Final = "*"
"""The key of `_attributes` for fields whose name is computed."""


_Body = nodes.Macro | nodes.CallBlock | nodes.AssignBlock | nodes.FilterBlock | nodes.For


class Flow:
    """The values that each expression of one template may hold."""

    def __init__(self, tree: nodes.Node) -> None:
        self.scopes = Scopes(tree)
        self._variables: dict[str, int] = {}
        self._attributes: dict[str, int] = {}
        self._results: dict[int, int] = {}
        self._called_blocks = self._block_arguments = self._loop_items = self._loop_output = Holds.NOTHING
        self._memo: dict[int, int] = {}
        self._prints: dict[int, list[nodes.Node]] = {}
        self._settle()

    def holds(self, node: nodes.Node) -> int:
        """The values that an expression may hold."""
        known = self._memo.get(id(node))
        if known is None:
            known = self._memo[id(node)] = self._evaluate(node)
        return known

    def output(self, node: _Body) -> int:
        """The values in the text that the body of a statement prints."""
        found = Holds.NOTHING
        for part in self._printing(node):
            if isinstance(part, nodes.FilterBlock):
                found |= _printed(self._filter(part.filter, self.output(part)))
            else:
                found |= _printed(self.holds(part))
        return found

    def _printing(self, node: _Body) -> list[nodes.Node]:
        """Expressions and filter blocks that a body prints, without those of macros and blocks that it defines."""
        known = self._prints.get(id(node))
        if known is not None:
            return known
        found: list[nodes.Node] = []
        pending = [*node.body, *(node.else_ if isinstance(node, nodes.For) else [])]
        while pending:
            part = pending.pop()
            if isinstance(part, nodes.Output):
                found += part.nodes
            elif isinstance(part, nodes.FilterBlock):
                found.append(part)
            elif isinstance(part, nodes.CallBlock):
                found.append(part.call)
            elif isinstance(part, nodes.If):
                pending += [*part.body, *part.elif_, *part.else_]
            elif isinstance(part, nodes.For):
                pending += [*part.body, *part.else_]
            elif isinstance(part, nodes.With | nodes.ScopedEvalContextModifier | nodes.Scope):
                pending += part.body
        self._prints[id(node)] = found
        return found

    def _settle(self) -> None:
        """Propagate until nothing changes. After many rounds, everything is taken to hold everything."""
        statements = [node for node in reversed(self.scopes.nodes) if isinstance(node, _BINDING)]
        for _ in range(_MAX_ROUNDS):
            before = self._state()
            for node in statements:
                self._transfer(node)
            self._memo.clear()  # not at every change: most of the time would go into evaluating the same again
            if self._state() == before:
                return
        for found in (self._variables, self._attributes):
            found.update(dict.fromkeys(found, Holds.EVERYTHING))
        self._results = dict.fromkeys(self._results, Holds.EVERYTHING)
        self._called_blocks = self._block_arguments = self._loop_items = self._loop_output = Holds.EVERYTHING

    def _state(self) -> list[int]:
        maps = (self._variables, self._attributes, self._results)
        single = (self._called_blocks, self._block_arguments, self._loop_items, self._loop_output)
        return [*(sum(found.values()) for found in maps), *single]

    def _add(self, found: dict[str, int], key: str, value: int) -> None:
        found[key] = found.get(key, Holds.NOTHING) | value

    def _bind(self, target: nodes.Node, value: int) -> None:
        if isinstance(target, nodes.Name):
            self._add(self._variables, self.scopes.key(target), value)
        elif isinstance(target, nodes.NSRef):
            self._add(self._attributes, target.attr, value)
        elif isinstance(target, nodes.Tuple | nodes.List):
            for item in target.items:
                self._bind(item, value | _element(value))

    def _transfer(self, node: nodes.Node) -> None:
        """Take in what a node binds or prints."""
        if isinstance(node, nodes.Assign):
            self._bind(node.target, self.holds(node.node))
        elif isinstance(node, nodes.AssignBlock):
            text = self.output(node)
            self._bind(node.target, self._filter(node.filter, text) if node.filter else text)
        elif isinstance(node, nodes.With):
            for target, value in zip(node.targets, node.values, strict=True):
                self._bind(target, self.holds(value))
        elif isinstance(node, nodes.For):
            item = _element(self.holds(node.iter)) | (_element(self._block_arguments) if node.recursive else 0)
            self._loop_items |= item
            self._loop_output |= self.output(node)
            self._bind(node.target, item | Holds.KEY)
        elif isinstance(node, nodes.Macro):
            self._results[id(node)] = self._results.get(id(node), Holds.NOTHING) | self.output(node)
            self._bind_defaults(node)
        elif isinstance(node, nodes.CallBlock):
            self._called_blocks |= self.output(node)
            self._bind_defaults(node)
            for key in [*self.scopes.parameters(node), *self.scopes.other_arguments(node)]:
                self._add(self._variables, key, self._block_arguments)
        elif isinstance(node, nodes.Call):
            self._bind_arguments(node)
        elif isinstance(node, nodes.Dict):
            for pair in node.items:
                name = str(pair.key.value) if isinstance(pair.key, nodes.Const) else _ANY_FIELD
                self._add(self._attributes, name, self.holds(pair.value))

    def _bind_defaults(self, node: nodes.Macro | nodes.CallBlock) -> None:
        for key, default in zip(reversed(self.scopes.parameters(node)), reversed(node.defaults), strict=False):
            self._add(self._variables, key, self.holds(default))

    def _bind_arguments(self, node: nodes.Call) -> None:
        """Bind the arguments of a call to the parameters of the macros and call blocks that it may call."""
        if self.scopes.is_builtin(node.node, "namespace", "dict"):
            for keyword in node.kwargs:
                self._add(self._attributes, keyword.key, self.holds(keyword.value))
            for part in [*node.args, node.dyn_args, node.dyn_kwargs]:
                if part is not None:
                    self._add(self._attributes, _ANY_FIELD, _element(_element(self.holds(part))))
            return
        if not isinstance(node.node, nodes.Name) or node.node.name not in self.scopes.macros:
            for argument in arguments_of(node):
                self._block_arguments |= self.holds(argument) | _element(self.holds(argument))
        for macro in self.scopes.callees(node.node):
            for position, argument in enumerate(node.args):
                self._add(self._variables, self.scopes.parameter(macro, position), self.holds(argument))
            for keyword in node.kwargs:
                value = self.holds(keyword.value) | Holds.TEXTS  # the name itself is an item of `kwargs`
                self._add(self._variables, self.scopes.parameter(macro, keyword.key), value)
            for spread in (node.dyn_args, node.dyn_kwargs):
                if spread is not None:
                    value = self.holds(spread) | _element(self.holds(spread))
                    for key in [*self.scopes.parameters(macro), *self.scopes.other_arguments(macro)]:
                        self._add(self._variables, key, value)

    # --- expressions ---

    def _evaluate(self, node: nodes.Node) -> int:
        if isinstance(node, nodes.Const):
            if isinstance(node.value, str):
                return Holds.TEXT if _LETTER.search(node.value) else Holds.NOTHING
            return Holds.NOTHING if node.value is None else Holds.NUMBER
        if isinstance(node, nodes.TemplateData):
            return Holds.TEXT if _LETTER.search(node.data) else Holds.NOTHING
        if isinstance(node, nodes.Name):
            return self._name(node)
        if isinstance(node, nodes.Getattr):
            return self._attribute(node.node, node.attr, is_dotted=True)
        if isinstance(node, nodes.Getitem):
            return self._item(node)
        if isinstance(node, nodes.Call):
            return self._call(node)
        if isinstance(node, nodes.Filter):
            return self._filter(node, self.holds(node.node) if node.node else Holds.NOTHING)
        if isinstance(node, nodes.Test | nodes.Compare | nodes.UnaryExpr):
            return Holds.NUMBER
        return self._combined(node)

    def _combined(self, node: nodes.Node) -> int:
        """The values in an operation on several values, a list or a mapping."""
        parts = self._union(node.iter_child_nodes())
        if isinstance(node, nodes.Concat):
            return _printed(parts) | Holds.TEXT
        if isinstance(node, nodes.BinExpr) and not isinstance(node, nodes.Add | nodes.And | nodes.Or):
            return parts & ~OBJECTS | Holds.NUMBER
        if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
            inner = parts & ~Holds.TEXT | (Holds.TEXTS if parts & Holds.TEXT else Holds.NOTHING)
            return inner & ~Holds.KEY | Holds.LITERAL | (Holds.KEYS if parts & Holds.KEY else Holds.NOTHING)
        if isinstance(node, nodes.CondExpr):
            return self.holds(node.expr1) | (self.holds(node.expr2) if node.expr2 else Holds.NOTHING)
        return parts

    def _name(self, node: nodes.Name) -> int:
        found = _union(self._variables.get(key, Holds.NOTHING) for key in self.scopes.keys(node))
        if self.scopes.may_be_date(node.name):
            found |= Holds.DATE
        if (node.name in BUILTIN_FUNCTIONS or node.name in self.scopes.macros) and not self.scopes.is_parameter(node):
            found |= Holds.FUNCTION
        if node.name == "loop":
            found |= Holds.LOOP
        if node.name in {"bos_token", "eos_token"}:
            found |= Holds.TEXT
        return found

    def _attribute(self, base: nodes.Node, name: str, *, is_dotted: bool) -> int:
        """The values of a field. Those of mappings written in the template are known by their names."""
        stored = self._attributes.get(name, Holds.NOTHING) | self._attributes.get(_ANY_FIELD, Holds.NOTHING)
        if self.scopes.is_namespace(base):
            return stored
        inner = self.holds(base)
        found = stored | inner & (Holds.DATE | Holds.FUNCTION)
        if name in _GROUP_FIELDS:
            found |= inner
        if inner & Holds.LOOP:
            return found | self._loop_items | Holds.NUMBER
        is_data = name in FIELD_NAMES if is_dotted else name not in MAPPING_METHODS
        if name in METHOD_NAMES and (not is_data or _is_text_or_list(base) or inner & (Holds.FUNCTION | Holds.LITERAL)):
            found |= Holds.METHOD
        return found | _AUTHORED_FIELDS.get(name, Holds.NOTHING)

    def _item(self, node: nodes.Getitem) -> int:
        inner = self.holds(node.node)
        if isinstance(node.arg, nodes.Slice):
            return inner
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._attribute(node.node, node.arg.value, is_dotted=False)
        found = _element(inner)
        if inner & (OBJECTS | Holds.LITERAL):
            found |= self._union_of_fields()
        return found

    def _call(self, node: nodes.Call) -> int:
        callee = node.node
        if isinstance(callee, nodes.Name):
            if self.scopes.is_builtin(callee, "namespace", "dict"):
                values = self._union(arguments_of(node))
                inner = values & ~Holds.TEXT | (Holds.TEXTS if values & Holds.TEXT or node.kwargs else Holds.NOTHING)
                return inner | (Holds.NAMESPACE if callee.name == "namespace" else Holds.LITERAL)
            if self.scopes.is_builtin(callee, "range", "raise_exception"):
                return Holds.NUMBER
        results = _union(self._results.get(id(macro), Holds.NOTHING) for macro in self.scopes.callees(callee))
        if not isinstance(callee, nodes.Name) or callee.name not in self.scopes.macros:
            results |= self._called_blocks | self._loop_output
        dated = self.holds(callee) & Holds.DATE
        if isinstance(callee, nodes.Getattr) and callee.attr in METHOD_NAMES:
            stored = results if self.scopes.has_function_values else Holds.NOTHING
            return stored | dated | self._method(callee, node)
        return results | dated | (Holds.TEXT if dated else Holds.NOTHING)

    def _method(self, callee: nodes.Getattr, node: nodes.Call) -> int:
        base, name = self.holds(callee.node), callee.attr
        arguments = self._union(arguments_of(node))
        kept = base & ~Holds.LITERAL
        if name in NUMBER_METHODS:
            return Holds.NUMBER
        if name in SPLIT_METHODS:
            return kept & ~(Holds.TEXT | Holds.KEY | Holds.TYPE) | (
                Holds.TEXTS if base & (Holds.TEXT | Holds.KEY) else Holds.NOTHING
            )
        if name in VIEW_METHODS:
            kept &= ~(Holds.TEXT | Holds.KEY)  # a string has no such methods
            return kept | Holds.KEYS | (Holds.TEXTS if base & Holds.LITERAL else Holds.NOTHING)
        if name in ELEMENT_METHODS:
            default = self._union(node.args[1:])
            if node.args and isinstance(node.args[0], nodes.Const) and isinstance(node.args[0].value, str):
                return default | self._attribute(callee.node, node.args[0].value, is_dotted=False)
            return default | _element(base) | self._union_of_fields()
        if name in {"format", "join"}:
            return kept | _printed(arguments) | Holds.TEXT
        return kept | arguments & _PRINTED

    def _filter(self, node: nodes.Filter, base: int) -> int:
        arguments = self._union(arguments_of(node))
        kept, name = base & ~Holds.LITERAL, node.name
        if name in NUMBER_FILTERS:
            return base & Holds.DATE | Holds.NUMBER
        if name in ELEMENT_FILTERS:
            return _element(base) | Holds.KEY
        if name in TEXT_FILTERS:
            return _printed(base | arguments) | Holds.TEXT
        if name in {"default", "d"}:
            return base | arguments
        if name in GENERATOR_FILTERS:
            added = Holds.TEXTS if name in {"map", "batch", "slice"} and arguments & (Holds.TEXT | Holds.TEXTS) else 0
            written = Holds.TEXTS if name == "map" and node.args else 0
            taken = Holds.TEXTS if base & (Holds.TEXT | Holds.TYPE) else 0
            kept &= ~(Holds.TEXT | Holds.TYPE | Holds.KEY)
            return kept | Holds.GENERATOR | Holds.KEYS | taken | added | written | arguments & Holds.DATE
        if name in {"list", "sort", "dictsort", "groupby"}:
            taken = Holds.TEXTS if base & (Holds.TEXT | Holds.TYPE) else 0
            kept &= ~(Holds.GENERATOR | Holds.TEXT | Holds.TYPE | Holds.KEY)
            return kept | Holds.LITERAL & base | Holds.KEYS | taken
        return kept | arguments & _PRINTED

    def _union_of_fields(self) -> int:
        return _union(self._attributes.values())

    def _union(self, parts: Iterable[nodes.Node]) -> int:
        return _union(map(self.holds, parts))


def _union(values: Iterable[int]) -> int:
    found = Holds.NOTHING
    for value in values:
        found |= value
    return found


def _printed(value: int) -> int:
    """The values in the text of a value."""
    return value & _PRINTED | (Holds.TEXT if value & ~(Holds.DATE | Holds.NUMBER) else Holds.NOTHING)


def _element(value: int) -> int:
    """The values of an item of a value: a string's item is a part of it."""
    inner = Holds.TEXT | Holds.TEXTS if value & Holds.TEXTS else Holds.NOTHING
    keys = Holds.KEY | Holds.KEYS if value & Holds.KEYS else Holds.NOTHING
    return value & ~(Holds.TEXTS | Holds.KEYS | Holds.GENERATOR | Holds.LITERAL) | inner | keys


def _is_text_or_list(node: nodes.Node) -> bool:
    """Whether an expression is a part of a conversation that is no mapping."""
    name = node.name if isinstance(node, nodes.Name) else node.attr if isinstance(node, nodes.Getattr) else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        name = node.arg.value
    return isinstance(node, nodes.Literal) or name in _TEXTS_AND_LISTS


def arguments_of(node: nodes.Call | nodes.Filter | nodes.Test) -> list[nodes.Node]:
    found: list[nodes.Node] = [*(node.args or ()), *(keyword.value for keyword in node.kwargs or ())]
    return found + [part for part in (node.dyn_args, node.dyn_kwargs) if part is not None]
