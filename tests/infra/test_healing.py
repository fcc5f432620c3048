"""A service that ends by itself is started again, later each time, and no earlier."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from infra.local.healing import Healer
from infra.local.service import Service
from tests.support.waiting import wait_for


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def kill(service: Service) -> None:
    os.kill(service.pid, signal.SIGKILL)
    wait_for(lambda: service.poll() is not None)


def test_a_killed_service_is_started_again_with_the_same_command_and_log(tmp_path: Path, clock: Clock) -> None:
    lines: list[str] = []
    program = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(600)"]
    log = tmp_path / "log"
    with Service("the sleeper", program, log=log) as service:
        wait_for(lambda: log.read_text() == "started\n")
        healer = Healer([service], on_line=lines.append, clock=clock)
        first = service.pid
        assert not healer.step()
        kill(service)
        assert healer.step()
        assert not healer.step(), "it is not started before its time"
        clock.now += 0.5
        assert healer.step()
        assert service.pid != first
        wait_for(lambda: log.read_text() == "started\nstarted\n")
        clock.now += 2
        assert healer.step()
        assert healer.watched[0].restarts == 1
        assert lines == [
            f"the sleeper exited with status -9. The last lines of {log}:\nstarted\n"
            "the sleeper is started again in 0.5 s",
            "the sleeper is back after 2.5 s",
        ]
        assert not healer.step()


def test_the_delay_grows_while_a_service_does_not_stay_up_and_is_short_again_after_a_minute(clock: Clock) -> None:
    lines: list[str] = []
    with Service("the failing", ["sleep", "600"], log=None) as service:
        healer = Healer([service], on_line=lines.append, clock=clock)
        delays = []
        for _ in range(8):
            kill(service)
            healer.step()
            delays.append(float(lines[-1].rpartition(" in ")[2].removesuffix(" s")))
            clock.now += delays[-1]
            healer.step()
            healer.step()  # it is ready
        assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]
        clock.now += 60
        healer.step()
        kill(service)
        healer.step()
        assert lines[-1].endswith("the failing is started again in 0.5 s")


def test_what_runs_but_does_not_become_ready_is_started_once_more(clock: Clock) -> None:
    lines: list[str] = []
    with Service("the stuck", ["sleep", "600"], log=None) as service:
        service.is_ready = lambda: False
        healer = Healer([service], on_line=lines.append, clock=clock)
        kill(service)
        for seconds in (0, 0.5, 149):
            clock.now += seconds
            healer.step()
        assert service.poll() is None
        clock.now += 2
        healer.step()
        assert service.poll() is not None
        assert lines[-1] == "the stuck was not ready within 150 s\nthe stuck is started again in 1 s"


def test_a_program_that_is_gone_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    lines: list[str] = []

    def require_marker() -> None:
        (tmp_path / "marker").read_text()

    (tmp_path / "marker").touch()
    with Service("the marked", ["sleep", "600"], log=None, prepare=require_marker) as service:
        healer = Healer([service], on_line=lines.append, clock=clock)
        (tmp_path / "marker").unlink()
        kill(service)
        for seconds in (0, 0.5):
            clock.now += seconds
            healer.step()
        assert "the marked cannot be started: " in lines[-1]
        (tmp_path / "marker").touch()
        clock.now += 1
        healer.step()
        assert service.poll() is None
