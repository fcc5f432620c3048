"""Programs that run for this process and never outlive it, each under a guard (`infra.local.guard`).

A *service* has a name, for messages, and a log, which is its identity: one service a log at a time. Starting returns
when the program was started, not when it is ready; `wait_until` waits for that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from infra.local import subreaper

_TAIL_BYTES = 4000
_POLL_S = 0.02
_PREDECESSOR_S = 20.0  # longer than any grace


class ServiceError(Exception):
    """A service did not start or did not become ready. The message ends with the tail of its log."""


class ServiceEnded(ServiceError):
    """A service ended early."""


class Service:
    """A program under guard. It runs from the constructor on, until `stop` or the end of this process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        polite: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        mapped: bool = False,
    ) -> None:
        """Start `command`, with `environment` as its whole environment (default: ours).

        `log` is written anew by each start, and names the service: there is one at a time, and a start waits for the
        end of the one before. Without a log the program writes where this process does. `polite` is the signal that
        asks it to stop, `grace_s` how long it may take. `mapped` runs it in a user namespace in which we are an
        ordinary user: for programs that refuse to run as root.
        """
        self.name = name
        self.log = log
        self._grace_s = grace_s
        program = [sys.executable, "-I", "-S", subreaper.__file__]
        options = [str(os.getpid()), str(grace_s), str(int(polite)), "mapped" if mapped else "plain"]
        output = None if log is None else _open_log(name, log)
        report, reported = os.pipe()
        try:
            self._guard = subprocess.Popen(
                [*program, *options, str(reported), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(os.environ if environment is None else environment),
                cwd=directory,
                pass_fds=[reported],
                start_new_session=True,
            )
        finally:
            os.close(reported)
            if output is not None:
                os.close(output)
        with os.fdopen(report, "rb") as pipe:
            self.pid = int(pipe.read() or 0)

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit status, negative for a signal."""
        status = self._guard.poll()
        return None if status is None else (128 - status if status > 128 else status)

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status, once it and all that it started have ended."""
        self._guard.wait(timeout_s)
        status = self.poll()
        assert status is not None  # noqa: S101 - for the type checker: wait returned
        return status

    def stop(self) -> None:
        """End it with all that it started, and wait until that is done. When it has ended already, do nothing."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(self._grace_s + 10)
        except subprocess.TimeoutExpired:  # a guard that is itself stopped (SIGSTOP)
            self._guard.kill()
            self._guard.wait()
        if self._guard.returncode < 0 and self.pid:
            subreaper.signal_group(self.pid, signal.SIGKILL)

    def wait_until(self, ready: Callable[[], bool], *, deadline_s: float, interval_s: float = 0.1) -> None:
        """Ask `ready` until it says so. Raises ServiceError when the service ends or the deadline passes first."""
        end = time.monotonic() + deadline_s
        while True:
            status = self.poll()
            if status is not None:
                raise ServiceEnded(f"{self.name} ended with status {status} before it was ready{self.tail()}")
            if ready():
                return
            if time.monotonic() > end:
                raise ServiceError(f"{self.name} was not ready within {deadline_s:.0f} s{self.tail()}")
            time.sleep(interval_s)

    def tail(self) -> str:
        """The end of its log, as the last part of a message."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
        return f". The end of {self.log}:\n{text}" if text else f". {self.log} is empty"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def run(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    mapped: bool = False,
) -> None:
    """Run a program to its end, under guard. Raises ServiceEnded when it fails."""
    with Service(name, command, log=log, environment=environment, directory=directory, mapped=mapped) as service:
        status = service.wait()
        if status != 0:
            raise ServiceEnded(f"{name} ended with status {status}{service.tail()}")


def wait_until_gone(log: Path, timeout_s: float = _PREDECESSOR_S) -> bool:
    """Whether the service with this log, and all that writes there, has ended within the time."""
    if not log.exists():
        return True
    descriptor = os.open(log, os.O_RDONLY)
    try:
        return take_lock(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def _open_log(name: str, log: Path) -> int:
    """The log, emptied and locked. Whoever inherits the descriptor holds the lock: it ends with the last of them."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if not take_lock(descriptor, _PREDECESSOR_S):
        os.close(descriptor)
        raise ServiceError(
            f"{name} cannot start: a process of an earlier start still has {log} open. End that one first"
        )
    os.ftruncate(descriptor, 0)
    return descriptor


def take_lock(descriptor: int, timeout_s: float) -> bool:
    """Whether the lock on an open file could be had within the time. The kernel frees it with the last descriptor."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True
