"""Check a chat template's syntax tree against the allowlists, without running the template.

The rules apply to the syntax tree, so they cannot be evaded by formatting. The analysis also collects *triggers*: the
texts and numbers that the template compares values with. `probes` puts them into conversations, so that a branch that
depends on a certain word or length is executed.

This module runs in the sandboxed subprocess, which enforces the resource limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from paddock.chat import allowlist
from paddock.chat.assignments import Assignments
from paddock.chat.conditional_text import check_conditional_text
from paddock.chat.dates import find_date_dependencies
from paddock.chat.flow import Flow
from paddock.chat.objects import find_printed_objects
from paddock.chat.protocol import TemplateAnalysis
from paddock.chat.text import find_urls, invisible_characters
from paddock.model.finding import Finding, Severity

_DUNDER = re.compile(r"__\w+__")
_FORMAT_FIELD = re.compile(r"\{[^{}]*(?:\._|\[_)")
_MAX_TEXTS = 256
_MAX_NUMBERS = 16


def unusable(rule: str, reason: str, where: str = "") -> TemplateAnalysis:
    """Return the analysis of a template that cannot be parsed or compiled: one rejecting finding."""
    return TemplateAnalysis((_reject(rule, f"the template cannot be used: {reason}", where),))


def analyse(tree: nodes.Template) -> TemplateAnalysis:
    """Check a parsed template, and collect its triggers."""
    all_nodes = list(_walk(tree))
    assignments = Assignments.of(all_nodes)
    findings: dict[tuple[str, str], Finding] = {}
    for node in all_nodes:
        for finding in _check_node(node, assignments):
            findings.setdefault((finding.rule, finding.where), finding)
    flow = Flow(tree)
    for finding in [
        *_check_dates(all_nodes, flow),
        *_check_objects(all_nodes, flow),
        *check_conditional_text(tree, flow, assignments),
    ]:
        findings.setdefault((finding.rule, finding.where), finding)
    texts, numbers = _triggers(all_nodes)
    if len(texts) > _MAX_TEXTS or len(numbers) > _MAX_NUMBERS:
        message = f"the template compares values with {len(texts)} texts and {len(numbers)} numbers, too many to test"
        warning = Finding("template.triggers", Severity.WARN, message, cure="review the template")
        findings[warning.rule, warning.where] = warning
    return TemplateAnalysis(tuple(findings.values()), texts[:_MAX_TEXTS], numbers[:_MAX_NUMBERS])


def _check_dates(all_nodes: list[nodes.Node], flow: Flow) -> Iterator[Finding]:
    for line in find_date_dependencies(all_nodes, flow):
        message = "the output depends on the date; a template may only print the date"
        yield _reject("template.date", message, f"line {line}")


def _check_objects(all_nodes: list[nodes.Node], flow: Flow) -> Iterator[Finding]:
    for line, name in find_printed_objects(all_nodes, flow):
        message = f"the template prints Python's description of an object, not text: `{name}`"
        yield _reject("template.prints-object", message, f"line {line}")


def _walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node.iter_child_nodes())


def _check_node(node: nodes.Node, assignments: Assignments) -> Iterator[Finding]:
    where = f"line {node.lineno}"
    loading = allowlist.TEMPLATE_LOADING.get(type(node))
    if loading:
        yield _reject("template.loads", f"`{loading}` loads another template, which is not allowed", where)
    elif not isinstance(node, allowlist.STATEMENTS + allowlist.EXPRESSIONS):
        yield _reject("template.construct", f"`{type(node).__name__.lower()}` is not allowed in a chat template", where)
    elif isinstance(node, nodes.Name):
        yield from _check_name(node, assignments, where)
    elif isinstance(node, nodes.Getattr | nodes.NSRef):
        yield from _check_attribute(node.attr, where)
    elif isinstance(node, nodes.Getitem):
        yield from _check_subscript(node, assignments, where)
    elif isinstance(node, nodes.Filter):
        yield from _check_filter(node, assignments, where)
    elif isinstance(node, nodes.Test):
        if node.name not in TESTS:
            yield _reject("template.test", f"the test `{node.name}` does not exist", where)
    elif isinstance(node, nodes.Call):
        yield from _check_call(node, assignments, where)
    elif isinstance(node, nodes.Const | nodes.TemplateData):
        yield from _check_literal(node, where)


def _check_name(node: nodes.Name, assignments: Assignments, where: str) -> Iterator[Finding]:
    if node.name in assignments.bound and not node.name.startswith("__"):
        return
    if node.name in allowlist.FORBIDDEN_NAMES:
        yield _reject("template.name", f"the name `{node.name}` gives access to Jinja's internals", where)
    elif node.name.startswith("_"):
        yield _reject(
            "template.underscore",
            f"the name `{node.name}` begins with an underscore and is not assigned in the template",
            where,
        )


def _check_attribute(name: object, where: str) -> Iterator[Finding]:
    if not isinstance(name, str):
        return
    if any(part.startswith("_") for part in name.split(".")):
        yield _reject(
            "template.underscore",
            f"`{name[:80]}` begins with an underscore: it gives access to Python's internals",
            where,
        )
    elif name in allowlist.FORBIDDEN_ATTRIBUTES:
        yield _reject("template.internals", f"`{name}` gives access to Python's internals", where)


def _check_subscript(node: nodes.Getitem, assignments: Assignments, where: str) -> Iterator[Finding]:
    if isinstance(node.arg, nodes.Const):
        yield from _check_attribute(node.arg.value, where)
    elif not isinstance(node.arg, nodes.Slice) and assignments.builds_text(node.arg):
        yield _reject(
            "template.computed",
            "a subscript is text built by the template, which could spell the name of an internal attribute",
            where,
        )


def _check_filter(node: nodes.Filter, assignments: Assignments, where: str) -> Iterator[Finding]:
    if node.name in allowlist.FORBIDDEN_FILTERS:
        yield _reject("template.filter", f"the filter `{node.name}` is not allowed in a chat template", where)
    elif node.name not in FILTERS:
        yield Finding(
            "template.unknown-filter",
            Severity.INFO,
            f"Jinja has no filter `{node.name}`: rendering fails where it is used",
            where,
        )
    elif node.name == "format" and node.node is not None and not assignments.is_literal_text(node.node):
        yield _reject(
            "template.format",
            "a format string is not a string literal, so it could give access to Python's internals",
            where,
        )
    if node.name in allowlist.ATTRIBUTE_FILTERS:
        yield from _check_named_arguments(node, where)


def _check_named_arguments(node: nodes.Filter, where: str) -> Iterator[Finding]:
    """Check the filters and attributes that are named in string arguments, as in `map('attr', …)` and
    `map(attribute='…')`.
    """
    arguments = [*node.args, *(keyword.value for keyword in node.kwargs if keyword.key == "attribute")]
    if node.name == "join":
        arguments = [*node.args[1:], *arguments[len(node.args) :]]
    for position, argument in enumerate(arguments):
        if not isinstance(argument, nodes.Const):
            if position == 0 or argument not in node.args:
                yield _reject("template.computed", f"the filter `{node.name}` gets a computed name", where)
            continue
        yield from _check_attribute(argument.value, where)
        if (
            node.name == "map"
            and position == 0
            and argument in node.args
            and argument.value in allowlist.FORBIDDEN_FILTERS
        ):
            yield _reject("template.filter", f"the filter `{argument.value}` is not allowed in a chat template", where)


def _check_call(node: nodes.Call, assignments: Assignments, where: str) -> Iterator[Finding]:
    if assignments.is_macro(node.node):
        return
    if not isinstance(node.node, nodes.Getattr):
        if not isinstance(node.node, nodes.Name):
            yield _reject("template.call", "the called function is computed", where)
        return
    method = node.node.attr
    if method in allowlist.MUTATIONS:
        message = f"`.{method}()` changes data, which the sandbox refuses: conversations that reach it fail"
        yield Finding("template.mutates", Severity.INFO, message, where, "use a namespace and `+` instead")
    elif method not in allowlist.METHODS:
        yield _reject("template.call", f"the method `{method[:80]}` is not allowed in a chat template", where)
    elif method == "format" and not assignments.is_literal_text(node.node.node):
        yield _reject(
            "template.format",
            "a format string is not a string literal, so it could give access to Python's internals",
            where,
        )


def _check_literal(node: nodes.Const | nodes.TemplateData, where: str) -> Iterator[Finding]:
    text = node.value if isinstance(node, nodes.Const) else node.data
    if not isinstance(text, str):
        return
    if isinstance(node, nodes.Const) and (_DUNDER.search(text) or _FORMAT_FIELD.search(text)):
        yield _reject("template.underscore", f"the text {text[:60]!r} contains an internal attribute's name", where)
    invisible = invisible_characters(text)
    if invisible:
        yield Finding(
            "template.invisible",
            Severity.WARN,
            f"the template contains invisible characters: {', '.join(invisible)}",
            where,
            "review the template",
        )
    for url in find_urls(text):
        yield Finding(
            "template.url",
            Severity.WARN,
            f"the template contains the URL {url}",
            where,
            "check whether the model should see this URL",
        )


def _triggers(all_nodes: list[nodes.Node]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the texts and numbers that the template compares values with or passes to calls, filters and tests."""
    texts: dict[str, None] = {}
    numbers: set[int] = set()
    for node in all_nodes:
        sides: list[nodes.Node] = []
        if isinstance(node, nodes.Compare):
            sides = [node.expr, *(operand.expr for operand in node.ops)]
        elif isinstance(node, nodes.Call):
            sides = list(node.args)
        elif isinstance(node, nodes.Filter | nodes.Test):
            sides = [*(node.args or ()), *(keyword.value for keyword in node.kwargs or ())]
        elif isinstance(node, nodes.Mod | nodes.FloorDiv | nodes.Sub):
            sides = [node.right]
        elif isinstance(node, nodes.Assign | nodes.Getitem):
            sides = [node.node if isinstance(node, nodes.Assign) else node.arg]
        for side in sides:
            for part in _walk(side):
                value = _constant(part)
                if isinstance(value, str) and 1 < len(value) <= 200:
                    texts[value] = None
                elif isinstance(value, int) and 2 <= value <= 100_000:
                    numbers.add(value)
    return tuple(texts), tuple(sorted(numbers))


def _constant(node: nodes.Node) -> object:
    """The value of a literal, or of literals that are joined or computed with; else None."""
    if not isinstance(node, nodes.Const | nodes.Concat | nodes.BinExpr):
        return None
    try:
        return node.as_const()
    except nodes.Impossible:
        return None


def _reject(rule: str, message: str, where: str) -> Finding:
    return Finding(rule, Severity.REJECT, message, where, "use the family's template instead")
