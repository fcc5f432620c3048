"""What the sources tell people to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddock.cli.main import app

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("paddock", "tasks", "flows", "infra") for path in (ROOT / room).rglob("*.py"))
NAMED = [
    (path.relative_to(ROOT).as_posix(), command)
    for path in SOURCES
    for command in re.findall(r"`paddock ([a-z]+)", path.read_text(encoding="utf-8"))
]


def test_the_sources_name_commands() -> None:
    assert NAMED


@pytest.mark.parametrize(("path", "command"), NAMED, ids=lambda value: value)
def test_a_command_that_is_named_is_one_of_ours(path: str, command: str) -> None:
    ours = {one.name or (one.callback.__name__ if one.callback else "") for one in app.registered_commands}
    assert command in ours, f"{path} names `paddock {command}`"
