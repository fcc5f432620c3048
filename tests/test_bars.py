"""What people see while bytes move."""

from __future__ import annotations

import pytest

from paddock.cli.progress import ProgressBars
from paddock.transfer.progress import Progress
from tests.support.clock import FakeClock

MIB = 1024 * 1024


def moved(label: str, done: int, total: int, rate: float = 10 * MIB) -> Progress:
    return Progress(label, done * MIB, total * MIB, done * MIB, 0, rate)


def test_where_nobody_watches_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    with ProgressBars(quiet=False, clock=clock) as bars:
        bars.on_start(300 * MIB)
        for second in range(1, 21):
            clock.now_s += 1
            bars.on_progress(moved("m\x1b[2J: b.gguf", 10 * second, 200))
    assert capsys.readouterr().err.splitlines() == [
        "m\\x1b[2J: b.gguf: 100.0 MiB of 200.0 MiB, 10.0 MiB/s, 10 s left; "
        "all files: 100.0 MiB of 300.0 MiB, 10.0 MiB/s, 20 s left",
        "m\\x1b[2J: b.gguf: 200.0 MiB; all files: 200.0 MiB of 300.0 MiB, 10.0 MiB/s, 10 s left",
    ]


def test_one_file_alone_has_no_total_and_ends_once(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars(quiet=False) as bars:
        bars.on_start(100 * MIB)
        bars.on_progress(moved("a", 100, 100))
        bars.on_progress(moved("a", 100, 100))
    assert capsys.readouterr().err == "a: 100.0 MiB\n"


def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressBars(quiet=False) as bars:
        bars.on_start(300 * MIB)
        bars.on_progress(moved("a", 100, 100))
        bars.on_progress(moved("b", 50, 200))
    said = capsys.readouterr().err
    assert "50.0 MiB of 200.0 MiB, 10.0 MiB/s, 15 s left" in said
    assert "150.0 MiB of 300.0 MiB, 10.0 MiB/s, 15 s left" in said


def test_a_file_that_is_being_verified_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    with ProgressBars(quiet=False, clock=clock) as bars:
        bars.on_start(100 * MIB)
        clock.now_s += 11
        bars.on_progress(Progress("a", 100 * MIB - 1, 100 * MIB, 100 * MIB, 0, 10 * MIB, verify_s=3.0))
    assert capsys.readouterr().err == "a: 100.0 MiB, verifying, 3 s left\n"


def test_nothing_is_said_to_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars(quiet=True) as bars:
        bars.on_start(100 * MIB)
        bars.on_progress(moved("a", 100, 100))
    assert capsys.readouterr() == ("", "")
