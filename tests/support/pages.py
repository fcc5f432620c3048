"""Read the pages of the documentation: their sections, tables, links and headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main

from paddock.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
_TOP: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined] # of the group
COMMANDS: dict[str, Any] = {
    f"{name} {inner}".strip(): command
    for name, group in _TOP.items()
    for inner, command in getattr(group, "commands", {"": group}).items()
}
"""The commands by their names; one in a group has the group's name before its own, such as `catalog add`."""

_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (DOCS / name).read_text()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCED.sub("", page.read_text())


def code_blocks(page: Path) -> list[str]:
    """The blocks of code of a page, with their fences."""
    return _FENCED.findall(page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next one of the same level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    body = text[text.index(f"{heading}\n") + len(heading) :]
    return re.split(rf"^#{{1,{level}}} ", body, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table in a text, without the heads."""
    table, is_body = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_body = False
        elif line.startswith("|---"):
            is_body = True
        elif is_body:
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return table


def code(cell: str) -> str:
    """The code in a cell, or ""."""
    found = re.search(r"`([^`]+)`", cell)
    return found[1] if found else ""
