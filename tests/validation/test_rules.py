"""Every rule is in the table of the documentation, and in a test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULE = re.compile(
    r"(gguf\.[a-z]+|template|integrity|compatibility|configuration|expectations|licence)\.[a-z][a-z0-9-]*[a-z0-9]"
)
SEVERITIES = {"reject", "warn", "info"}


def documented() -> dict[str, set[str]]:
    """The rules of the documentation with their severities."""
    table = re.findall(
        r"^\| `([a-z0-9.-]+)` \| ([a-z, ]+) \| \S", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE
    )
    rules = {rule: set(severities.split(", ")) for rule, severities in table}
    assert len(rules) == len(table), "a rule stands there twice"
    return rules


def texts(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@cache
def rules_in(folder: str) -> set[str]:
    """The rules that a constant of the code names. Only files with such a text are parsed, which takes seconds."""
    contents = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(content) for content in contents if RULE.search(content)]
    return {text for tree in trees for text in texts(tree) if RULE.fullmatch(text)}


def test_the_table_lists_exactly_the_rules_of_the_code() -> None:
    assert rules_in("paddock") == set(documented())


def test_every_severity_in_the_table_exists() -> None:
    assert {severity for severities in documented().values() for severity in severities} == SEVERITIES


def test_every_finding_has_a_severity_from_the_table() -> None:
    rules = documented()
    checked = 0
    for path in (ROOT / "paddock").rglob("*.py"):
        content = path.read_text()
        for node in ast.walk(ast.parse(content)) if "Finding(" in content else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and len(node.args) > 1:
                severity = ast.unparse(node.args[1]).removeprefix("Severity.").lower()
                for rule in texts(node.args[0]) & set(rules) if severity in SEVERITIES else ():
                    assert severity in rules[rule], f"{path.name}: {rule}"
                    checked += 1
    assert checked > 40


@pytest.mark.parametrize("rule", sorted(documented()))
def test_every_rule_is_named_in_a_test(rule: str) -> None:
    assert rule in rules_in("tests")
