"""What a template's syntax tree gives away: an allow-list of what a chat template may be made of.

The rules hold for the tree, so that no way of writing gets around them. Nothing is run. What the template is compared
with (*triggers*: the texts and numbers in its comparisons) goes into the probes, so that a branch that waits for a
certain word or length is seen.

It runs in the child process, and knows no limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from paddock.chat import allowlist, dates
from paddock.chat.protocol import Analysis
from paddock.chat.text import invisible, urls
from paddock.model.finding import Finding, Severity

_DUNDER = re.compile(r"__\w+__")
_FORMAT_FIELD = re.compile(r"\{[^{}]*(?:\._|\[_)")
_TEXTS_AT_MOST = 256
_NUMBERS_AT_MOST = 16


def unusable(rule: str, reason: str, where: str = "") -> Analysis:
    return Analysis((_reject(rule, f"the template is of no use: {reason}", where),))


def analyse(tree: nodes.Template) -> Analysis:
    """Judge a parsed template, and gather what it compares with."""
    everything = list(_walk(tree))
    assigned = _Assigned.of(everything)
    findings: dict[tuple[str, str], Finding] = {}
    for node in everything:
        for finding in _findings_of(node, assigned):
            findings.setdefault((finding.rule, finding.where), finding)
    for line in dates.decisions(everything):
        found = _reject(
            "template.date", "the date decides what the template says; a template may only print it", f"line {line}"
        )
        findings.setdefault((found.rule, found.where), found)
    texts, numbers = _triggers(everything)
    if len(texts) > _TEXTS_AT_MOST or len(numbers) > _NUMBERS_AT_MOST:
        message = f"it compares with {len(texts)} texts and {len(numbers)} numbers, too many to try them all"
        warning = Finding("template.triggers", Severity.WARN, message, cure="read the template with care")
        findings[warning.rule, warning.where] = warning
    return Analysis(tuple(findings.values()), texts[:_TEXTS_AT_MOST], numbers[:_NUMBERS_AT_MOST])


def _walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


@dataclass(frozen=True, slots=True)
class _Assigned:
    """What a template gives names to: the names that it binds anyhow, and for each name (or `namespace.attribute`)
    the values it is set to.
    """

    bound: frozenset[str]
    values: dict[str, list[nodes.Node]]

    @classmethod
    def of(cls, everything: list[nodes.Node]) -> _Assigned:
        bound: set[str] = set()
        values: dict[str, list[nodes.Node]] = {}
        for node in everything:
            if isinstance(node, nodes.Macro) or (isinstance(node, nodes.Name) and node.ctx in {"store", "param"}):
                bound.add(node.name)
            elif isinstance(node, nodes.Assign):
                name = dates.key_of(node.target)
                if name:
                    values.setdefault(name, []).append(node.node)
            elif isinstance(node, nodes.AssignBlock):
                name = dates.key_of(node.target)
                if name:
                    values.setdefault(name, []).append(nodes.Concat([]))  # what a block renders was built
        return cls(frozenset(bound), values)

    def builds_text(self, node: nodes.Node, *, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a value may be text that the template put together itself: the way to spell a name past a rule."""
        if isinstance(node, nodes.Concat | nodes.Mod):
            return True
        if isinstance(node, nodes.Add | nodes.Mul | nodes.CondExpr | nodes.Or | nodes.And):
            parts = list(node.iter_child_nodes())
            textual = isinstance(node, nodes.Add | nodes.Mul) and any(
                isinstance(part, nodes.Const) and isinstance(part.value, str) for part in parts
            )
            return textual or any(self.builds_text(part, seen=seen) for part in parts)
        if isinstance(node, nodes.Filter):
            return node.name in allowlist.BUILDING_FILTERS
        if isinstance(node, nodes.Call):
            return isinstance(node.node, nodes.Getattr) and node.node.attr in allowlist.BUILDING_METHODS
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Slice) and isinstance(node.node, nodes.Const)
        name = dates.key_of(node)
        if name is None or name in seen:
            return False
        return any(self.builds_text(value, seen=seen | {name}) for value in self.values.get(name, ()))

    def constant_text(self, node: nodes.Node) -> bool:
        """Whether a value can only be text that stands in the template as it is."""
        if isinstance(node, nodes.Const):
            return isinstance(node.value, str)
        name = dates.key_of(node)
        values = self.values.get(name, []) if name else []
        return bool(values) and all(isinstance(value, nodes.Const) and isinstance(value.value, str) for value in values)


def _findings_of(node: nodes.Node, assigned: _Assigned) -> Iterator[Finding]:
    where = f"line {node.lineno}"
    loading = allowlist.LOADING.get(type(node))
    if loading:
        yield _reject("template.loads", f"`{loading}` asks for another template; a chat template is one text", where)
    elif not isinstance(node, allowlist.STATEMENTS + allowlist.EXPRESSIONS):
        yield _reject("template.construct", f"`{type(node).__name__.lower()}` has no place in a chat template", where)
    elif isinstance(node, nodes.Name):
        yield from _name(node, assigned, where)
    elif isinstance(node, nodes.Getattr | nodes.NSRef):
        yield from _attribute(node.attr, where)
    elif isinstance(node, nodes.Getitem):
        yield from _subscript(node, assigned, where)
    elif isinstance(node, nodes.Filter):
        yield from _filter(node, assigned, where)
    elif isinstance(node, nodes.Test):
        if node.name not in TESTS:
            yield _reject("template.test", f"the test `{node.name}` does not exist", where)
    elif isinstance(node, nodes.Call):
        yield from _call(node, assigned, where)
    elif isinstance(node, nodes.Const | nodes.TemplateData):
        yield from _literal(node, where)


def _name(node: nodes.Name, assigned: _Assigned, where: str) -> Iterator[Finding]:
    if node.name in assigned.bound and not node.name.startswith("__"):
        return
    if node.name in allowlist.FORBIDDEN_NAMES:
        yield _reject("template.name", f"the name `{node.name}` reaches into Jinja itself", where)
    elif node.name.startswith("_"):
        yield _reject(
            "template.underscore",
            f"the name `{node.name}` begins with an underscore, and the template does not set it",
            where,
        )


def _attribute(name: object, where: str) -> Iterator[Finding]:
    if not isinstance(name, str):
        return
    if any(part.startswith("_") for part in name.split(".")):
        yield _reject(
            "template.underscore", f"`{name[:80]}` begins with an underscore: it would reach Python's internals", where
        )
    elif name in allowlist.FORBIDDEN_ATTRIBUTES:
        yield _reject("template.internals", f"`{name}` would reach Python's internals", where)


def _subscript(node: nodes.Getitem, assigned: _Assigned, where: str) -> Iterator[Finding]:
    if isinstance(node.arg, nodes.Const):
        yield from _attribute(node.arg.value, where)
    elif not isinstance(node.arg, nodes.Slice) and assigned.builds_text(node.arg):
        yield _reject(
            "template.computed",
            "a subscript is text that the template puts together: it could spell the name of an internal",
            where,
        )


def _filter(node: nodes.Filter, assigned: _Assigned, where: str) -> Iterator[Finding]:
    if node.name in allowlist.FORBIDDEN_FILTERS:
        yield _reject("template.filter", f"the filter `{node.name}` has no use in a chat template", where)
    elif node.name not in FILTERS:
        yield Finding(
            "template.unknown-filter",
            Severity.INFO,
            f"the filter `{node.name}` is unknown to Jinja: rendering fails where it is reached",
            where,
        )
    elif node.name == "format" and node.node is not None and not assigned.constant_text(node.node):
        yield _reject(
            "template.format",
            "a format string is not plain text in the template: it could reach Python's internals",
            where,
        )
    if node.name in allowlist.BY_ATTRIBUTE:
        yield from _named_in_arguments(node, where)


def _named_in_arguments(node: nodes.Filter, where: str) -> Iterator[Finding]:
    """`map('attr', …)`, `map(attribute='…')` and their like name filters and attributes in text."""
    arguments = [*node.args, *(keyword.value for keyword in node.kwargs if keyword.key == "attribute")]
    if node.name == "join":
        arguments = [*node.args[1:], *arguments[len(node.args) :]]
    for position, argument in enumerate(arguments):
        if not isinstance(argument, nodes.Const):
            if position == 0 or argument not in node.args:
                yield _reject("template.computed", f"what the filter `{node.name}` names is computed", where)
            continue
        yield from _attribute(argument.value, where)
        if (
            node.name == "map"
            and position == 0
            and argument in node.args
            and argument.value in allowlist.FORBIDDEN_FILTERS
        ):
            yield _reject("template.filter", f"the filter `{argument.value}` has no use in a chat template", where)


def _call(node: nodes.Call, assigned: _Assigned, where: str) -> Iterator[Finding]:
    if not isinstance(node.node, nodes.Getattr):
        if not isinstance(node.node, nodes.Name):
            yield _reject("template.call", "what is called is computed", where)
        return
    method = node.node.attr
    if method in allowlist.MUTATIONS:
        message = (
            f"`.{method}()` changes data, which the engine's sandbox refuses: a conversation that comes here fails"
        )
        yield Finding("template.mutates", Severity.INFO, message, where, "use a namespace and `+`")
    elif method not in allowlist.METHODS:
        yield _reject("template.call", f"the method `{method[:80]}` has no use in a chat template", where)
    elif method == "format" and not assigned.constant_text(node.node.node):
        yield _reject(
            "template.format",
            "a format string is not plain text in the template: it could reach Python's internals",
            where,
        )


def _literal(node: nodes.Const | nodes.TemplateData, where: str) -> Iterator[Finding]:
    text = node.value if isinstance(node, nodes.Const) else node.data
    if not isinstance(text, str):
        return
    if isinstance(node, nodes.Const) and (_DUNDER.search(text) or _FORMAT_FIELD.search(text)):
        yield _reject("template.underscore", f"the text {text[:60]!r} spells the name of an internal", where)
    hidden = invisible(text)
    if hidden:
        yield Finding(
            "template.invisible",
            Severity.WARN,
            f"it holds invisible characters: {', '.join(hidden)}",
            where,
            "read the template with care",
        )
    for url in urls(text):
        yield Finding(
            "template.url", Severity.WARN, f"it holds the address {url}", where, "check that the model should see it"
        )


def _triggers(everything: list[nodes.Node]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The texts and numbers that the template compares with, or passes to a method that looks for a text."""
    texts: dict[str, None] = {}
    numbers: set[int] = set()
    for node in everything:
        sides: list[nodes.Node] = []
        if isinstance(node, nodes.Compare):
            sides = [node.expr, *(operand.expr for operand in node.ops)]
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr | nodes.Name):
            sides = list(node.args)
        elif isinstance(node, nodes.Filter | nodes.Test):
            sides = [*(node.args or ()), *(keyword.value for keyword in node.kwargs or ())]
        elif isinstance(node, nodes.Mod | nodes.FloorDiv | nodes.Sub):
            sides = [node.right]
        elif isinstance(node, nodes.Assign | nodes.Getitem):
            sides = [node.node if isinstance(node, nodes.Assign) else node.arg]
        for side in sides:
            for part in _walk(side):
                if isinstance(part, nodes.Const) and isinstance(part.value, str) and 1 < len(part.value) <= 200:
                    texts[part.value] = None
                elif isinstance(part, nodes.Const) and isinstance(part.value, int) and 2 <= part.value <= 100_000:
                    numbers.add(part.value)
    return tuple(texts), tuple(sorted(numbers))


def _reject(rule: str, message: str, where: str) -> Finding:
    return Finding(rule, Severity.REJECT, message, where, "use the family's template instead")
