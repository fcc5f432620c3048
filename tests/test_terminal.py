"""Untrusted text is printed escaped on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.cli.printing import print_line, print_table
from paddock.cli.render import render_history, render_onboarding
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import Onboarded
from paddock.model.units import counted
from paddock.plain_text import one_line
from paddock.store.history import Promotion
from tests.support.program import program
from tests.support.stores import Q8, A
from tests.support.tiny_hub import NAME, tiny_model

MARKUP = "[/b][red]:boom:"
CLEAR = "\x1b[2J\x1b]0;owned\x07\r\x9b1m"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Žluťoučký, 模型", "plain, Žluťoučký, 模型"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("one\r\ntwo\t", r"one\r\ntwo\t"),
        ("exe\u202efdp", r"exe\u202efdp"),
        ("\x9b\x7f", r"\x9b\x7f"),
        ("lone \udcff", r"lone \udcff"),
    ],
    ids=["letters", "an escape", "line ends", "a turn of direction", "C1 and DEL", "a byte that is no UTF-8"],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_number_agrees_with_its_noun() -> None:
    assert [counted(number, "revision") for number in (0, 1, 2)] == ["0 revisions", "1 revision", "2 revisions"]


@pytest.mark.parametrize("terminal", [False, True])
def test_untrusted_text_is_neither_markup_nor_control(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    dossier = tmp_path / "dossier.md"
    dossier.write_text(f"# {MARKUP}{CLEAR}\n\n[text](http://127.0.0.1/elsewhere)\n")
    print_line(MARKUP + CLEAR)
    line = Promotion("1", Q8, A, None, Q8, None, datetime(2026, 1, 1, tzinfo=UTC), reason=MARKUP, by=CLEAR)
    render_history([line])
    render_onboarding(
        Onboarded(
            "m",
            A,
            MARKUP,
            "Q8_0",
            CLEAR,
            str(dossier),
            promoted=True,
            transferred_bytes=1,
            context_tokens=4096,
            notes=(MARKUP,),
        )
    )
    output = capfd.readouterr().out
    assert output.count(MARKUP) == 5
    assert output.count(r"\x1b]0;owned\x07") == 4
    assert "elsewhere" in output
    for obeyed in ("\x1b[2J", "\x1b]", "\x07", "\r", "\x9b"):
        assert obeyed not in output


@pytest.mark.parametrize("terminal", [False, True])
def test_a_model_whose_names_look_like_markup_is_pulled_and_shown(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    hub.repository(NAME).commit(
        {"README.md": b'---\nlicense: "[/b]\\e[2J"\n---\n', "tiny[/b]-Q8_0.gguf": tiny_model(3), "tiny-Q8_0.gguf": None}
    )
    for arguments in (
        ["pull", NAME, "--file", "tiny[/b]-Q8_0.gguf"],
        ["show", NAME],
        ["inspect", f"{NAME}:tiny[/b]-Q8_0.gguf"],
    ):
        done = program(*arguments)
        assert done.status == 0, done.stderr
        assert "tiny[/b]-Q8_0.gguf" in done.stdout
        assert "\x1b[2J" not in done.stdout + done.stderr
        if arguments[0] == "show":
            assert r"[/b]\x1b[2J" in done.stdout


def test_a_table_is_plain_columns_with_a_row_on_each_line(capfd: pytest.CaptureFixture[str]) -> None:
    print_table(("model", "size"), [("org/name", "1 KiB"), ("模/名", "12 MiB"), ("x" * 300, "")])
    head, first, wide, long = capfd.readouterr().out.splitlines()
    assert head == f" model{' ' * 295}  size"
    assert first == f" org/name{' ' * 292}  1 KiB"
    assert wide == f" 模/名{' ' * 295}  12 MiB", "a Chinese character takes two columns"
    assert long == f" {'x' * 300}"


def test_a_table_is_wrapped_where_a_terminal_is_narrower_and_never_cut(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    name = "org/a-model-with-a-name-that-is-longer-than-the-terminal"
    print_table(("model", "size"), [(name, "1 KiB")])
    _, *lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line.partition("  ")[0].strip() for line in lines) == name
