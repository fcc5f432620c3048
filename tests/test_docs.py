"""Hold README.md and docs/ to the code: links, examples, and the names of commands, settings, files and modules."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.settings import SETTINGS
from tests.support.pages import (
    COMMANDS,
    PAGES,
    ROOT,
    anchors,
    code,
    code_blocks,
    prose,
    rows,
    section,
    text_of,
)

MOST_README_LINES = 120
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, link) for link in _LINK.findall(prose(page)) if "://" not in link)


@pytest.mark.parametrize(("page", "link"), list(links()), ids=lambda value: getattr(value, "name", value))
def test_a_relative_link_leads_to_a_file_and_a_heading(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for page, link in links() if page.name == "README.md"}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


# The README


def test_the_readme_is_a_front_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    block = code_blocks(ROOT / "README.md")[0]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()[1:-1]]
    assert commands == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


# Examples


def examples() -> Iterator[tuple[str, str]]:
    """(page, command) of each line of a block of code that runs paddock."""
    for page in PAGES:
        for block in code_blocks(page):
            for line in block.splitlines():
                command = line.strip().partition(" #")[0].strip()
                if command.startswith("paddock "):
                    yield page.name, command


@pytest.mark.parametrize(("page", "command"), list(examples()))
def test_an_example_is_a_command_that_the_command_line_accepts(page: str, command: str) -> None:
    _, name, *arguments = shlex.split(command)
    if name not in COMMANDS:  # a group
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`paddock(?: --verbose)? ([a-z]+)", page.read_text())
    assert set(named) <= {name.partition(" ")[0] for name in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    named = [
        target
        for line in [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ *\S* ?make .*", text, re.MULTILINE)]
        for words in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", line.partition(" #")[0])
        for target in words.split()
    ]
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_module_that_is_run_exists(page: Path) -> None:
    for module in re.findall(r"python -m (infra[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"\bPADDOCK_[A-Z0-9_]+", page.read_text()))
    assert named <= {variable for setting in SETTINGS.values() for variable in setting.names}


def changes() -> list[list[str]]:
    return rows(section(text_of("contributing.md"), "## Where to change what"))


def test_there_are_ten_changes() -> None:
    assert len(changes()) == 10


@pytest.mark.parametrize("cells", changes(), ids=lambda cells: code(cells[1]))
def test_the_file_to_change_is_there_or_has_a_directory(cells: list[str]) -> None:
    path = ROOT / code(cells[1])
    assert path.exists() or ("new" in cells[1] and path.parent.is_dir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_source_that_is_named_is_there(page: Path) -> None:
    new = {code(cells[1]) for cells in changes() if "new" in cells[1]}
    named = set(re.findall(r"`((?:paddock|tasks|flows|infra|tests)/[\w./-]+)`", page.read_text()))
    assert {name for name in named - new if not (ROOT / name).exists()} == set()
