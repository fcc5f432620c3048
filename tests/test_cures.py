"""Every command that the sources tell people to type is typed back: the command, its options and arguments parse."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from paddock.cli.main import app
from paddock.model.reference import parse_requested

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("paddock", "tasks", "flows", "infra") for path in (ROOT / room).rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ID = f"org/name:Q8_0@{'0123456789abcdef' * 2}01234567"
SAMPLES = {
    "id": ID,
    "manifest.id": ID,
    "name": "org/name:Q8_0",
    "wanted": "org/name:Q8_0@v1.0",
    "wanted.model": "org/name",
    "model": "org/name",
    "manifest.model": "org/name",
    "reference": "org/name@v1.0",
    "address.path": "dir",
    "printable(file)": "dir/model-Q8_0.gguf",
    "command": "pull",
    "option": "--verbose",
    "limit_bytes": "1000",
    "found.not_measured[0]": "org/name:Q8_0@01234567",
    "row.name": "org/name:Q8_0@01234567",
    "without[0]": "org/name:Q8_0@01234567",
    "against": f" --against {ID}",
}
"""Sample values for the placeholders in messages, by their expressions."""
ARGUMENTS = {"MODEL": "org/name", "SOURCE": "org/name:Q8_0"}
PLACEHOLDERS = {"COMMAND": "ls", "...": "", "…": ""}
GROUP: Any = typer.main.get_command(app)


def commands_in(path: Path) -> Iterator[str]:
    """The commands between backticks in the texts of a Python file, each with its placeholders filled in."""
    source = path.read_text(encoding="utf-8")
    if "paddock " not in source:  # most files: parsing them all takes seconds in each process that collects the tests
        return
    nodes = list(ast.walk(ast.parse(source)))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            text = "".join(map(filled_in, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            text = node.value
        else:
            continue
        yield from between_backticks(text)


def filled_in(part: ast.expr) -> str:
    """A part of an f-string. A placeholder without a sample stands out, and does not parse."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    expression = ast.unparse(part.value)
    return SAMPLES.get(expression, f"{{{expression}}}")


def between_backticks(text: str) -> Iterator[str]:
    for quoted in re.findall(r"`(paddock [^`]+)`", text):
        yield " ".join(quoted.split())


def commands_on(page: Path) -> Iterator[str]:
    """The commands on a page of the documentation: between backticks, and in its blocks."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("paddock "):
                yield line.partition("#")[0].strip()
    yield from between_backticks(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


IN_SOURCES = sorted({(path.relative_to(ROOT).as_posix(), line) for path in SOURCES for line in commands_in(path)})
IN_PAGES = sorted({(path.relative_to(ROOT).as_posix(), line) for path in PAGES for line in commands_on(path)})


def test_the_sources_name_commands() -> None:
    assert len(IN_SOURCES) > 30
    assert len(IN_PAGES) > 50


@pytest.mark.parametrize(("path", "line"), [*IN_SOURCES, *IN_PAGES], ids=lambda value: value)
def test_a_command_that_is_named_parses(path: str, line: str) -> None:
    assert "{" not in line, f"{path} names `{line}`: add a sample for its placeholder"
    for placeholder, sample in PLACEHOLDERS.items():
        line = line.replace(placeholder, sample)
    _, *arguments = shlex.split(line)
    try:
        type_in(arguments)
    except (typer.TyperException, ValueError) as error:
        pytest.fail(f"{path} names `{line}`: {error}")


def type_in(arguments: list[str]) -> None:
    """Parse a command line without running it. Arguments that it leaves out are filled in: a text may name a command
    with some of its options only."""
    try:
        context = GROUP.make_context("paddock", [*arguments, *([] if has_command(arguments) else ["ls"])])
        name, command, rest = "", GROUP, [*context._protected_args, *context.args]
        while hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, rest)
        required = [param for param in command.params if param.param_type_name == "argument" and param.required]
        given = command.make_parser(context).parse_args(list(rest))[0]
        missing = [ARGUMENTS[param.metavar] for param in required if given.get(param.name) is None]
        parsed = command.make_context(name, [*rest, *missing], parent=context)
    except typer.Exit:  # --help and --version
        return
    for param in command.params:
        value = parsed.params.get(param.name)
        if param.metavar in ARGUMENTS and value is not None and not value.startswith(("/", "./")):
            parse_requested(value)


def has_command(arguments: list[str]) -> bool:
    return any(not argument.startswith("-") for argument in arguments)
