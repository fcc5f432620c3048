"""The seconds of a command's phases: each is counted once, and they add up to the time since the process started."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock import timings
from paddock.cli.commands import TIMED
from paddock.store.volume import Volume
from paddock.timings import OTHER, START, elapsed, phase
from tests.support.pages import COMMANDS
from tests.support.program import Paddock, paddock

__all__ = ["paddock"]


@pytest.fixture
def measuring() -> Iterator[None]:
    timings.start()
    yield
    timings.stop()


def spend(seconds: float) -> None:
    """Take at least this long."""
    threading.Event().wait(seconds)


def test_nothing_is_measured_before_the_start() -> None:
    with phase("fetch"):
        assert elapsed() is None
    assert timings.stop() is None


def test_phases_are_counted_once_in_the_order_in_which_they_began(measuring: None) -> None:
    with phase("outer"):
        spend(0.01)
        with phase("inner"):
            spend(0.03)
    with phase("outer"):
        spend(0.01)
    measured = elapsed()
    assert measured is not None
    assert list(measured) == [START, "outer", "inner", OTHER, "total"]
    assert measured["inner"] >= 0.03
    assert measured["outer"] >= 0.02
    *parts, total = measured.values()
    assert total == pytest.approx(sum(parts), abs=0.001 * len(parts))


def test_a_phase_ends_with_an_error(measuring: None) -> None:
    def fail() -> None:
        with phase("fetch"):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    with phase("publish"):
        spend(0.01)
    measured = elapsed()
    assert measured is not None
    assert measured["publish"] >= 0.01 > measured["fetch"]


def test_the_phases_of_other_threads_are_in_that_of_the_thread_that_waits(measuring: None) -> None:
    def fetch() -> None:
        with phase("of a thread"):
            spend(0.01)

    with phase("fetch"):
        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
    measured = elapsed()
    assert measured is not None
    assert "of a thread" not in measured
    assert measured["fetch"] >= 0.01


def test_the_start_is_that_of_the_process() -> None:
    code = (
        "import time; time.sleep(0.1); from paddock import timings; timings.start()\n"
        "with timings.phase('work'): pass\n"
        "print(timings.stop()['start'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 0.1 <= float(ran.stdout) < 30


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    made = Volume(tmp_path / "models")
    made.prepare()
    monkeypatch.setenv("PADDOCK_VOLUME", str(made.root))
    return made


def test_people_get_a_line_on_stderr(volume: Volume, paddock: Paddock) -> None:
    done = paddock("ls", "--timings")
    assert done.status == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("timings: start ")
    assert [part.split()[0] for part in line.removeprefix("timings: ").split(", ")][-1] == "total"
    assert " volume 0." in line


def test_programs_get_an_object(volume: Volume, paddock: Paddock) -> None:
    done = paddock("ls", "--timings", "--json")
    assert done.stderr == ""
    assert {START, "volume", "total"} <= set(done.json["timings"])
    assert "timings" not in paddock("ls", "--json").json


def test_a_command_that_fails_has_its_timings_too(volume: Volume, paddock: Paddock, tmp_path: Path) -> None:
    done = paddock("plan", str(tmp_path / "missing.gguf"), "--timings")
    assert done.status == 3
    assert "timings: start " in done.stderr
    assert "there is no file" in done.stderr
    assert timings.elapsed() is None, "the next command of this process is not measured"


@pytest.mark.parametrize("name", sorted(TIMED))
def test_the_option_is_that_of_each_command_with_phases(name: str) -> None:
    assert [parameter.name for parameter in COMMANDS[name].params][-2:] == ["timings", "as_json"]
