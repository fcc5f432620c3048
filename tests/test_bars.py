"""What people see while bytes move."""

from __future__ import annotations

import time

import pytest

from paddock.bars import Bars
from paddock.transfer.progress import Progress, Total

MIB = 1024 * 1024


def moved(label: str, done: int, total: int, rate: float = 10 * MIB) -> Progress:
    return Progress(label, done * MIB, total * MIB, done * MIB, 0, rate)


def test_a_total_adds_up_its_files_and_tells_the_time_that_is_left() -> None:
    total = Total(300 * MIB)
    total.take(moved("a", 50, 100))
    total.take(moved("a", 100, 100))
    total.take(moved("b", 50, 200, 30 * MIB))
    assert total.done_bytes == 150 * MIB
    assert total.left_s == 5
    total.take(moved("b", 50, 200, 0))
    assert total.left_s is None
    total.take(moved("b", 200, 200, 0))
    assert (total.done_bytes, total.left_s) == (300 * MIB, 0)


def test_where_nobody_watches_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Bars(quiet=False) as bars:
        bars.begin(300 * MIB)
        for second in range(1, 21):
            now = 1000.0 + second
            bars.moved(moved("m\x1b[2J: b.gguf", 10 * second, 200))
    assert capsys.readouterr().err.splitlines() == [
        "m\\x1b[2J: b.gguf: 100.0 MiB of 200.0 MiB, 10.0 MiB/s, 10 s left; "
        "all files: 100.0 MiB of 300.0 MiB, 10.0 MiB/s, 20 s left",
        "m\\x1b[2J: b.gguf: 200.0 MiB; all files: 200.0 MiB of 300.0 MiB, 10.0 MiB/s, 10 s left",
    ]


def test_one_file_alone_has_no_total_and_ends_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(quiet=False) as bars:
        bars.begin(100 * MIB)
        bars.moved(moved("a", 100, 100))
        bars.moved(moved("a", 100, 100))
    assert capsys.readouterr().err == "a: 100.0 MiB\n"


def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with Bars(quiet=False) as bars:
        bars.begin(300 * MIB)
        bars.moved(moved("a", 100, 100))
        bars.moved(moved("b", 50, 200))
    said = capsys.readouterr().err
    assert "50.0 MiB of 200.0 MiB, 10.0 MiB/s, 15 s left" in said
    assert "150.0 MiB of 300.0 MiB, 10.0 MiB/s, 15 s left" in said


def test_nothing_is_said_to_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(quiet=True) as bars:
        bars.begin(100 * MIB)
        bars.moved(moved("a", 100, 100))
    assert capsys.readouterr() == ("", "")
