"""Start, watch and stop programs that end with this process, each below a subreaper (`infra.local.subreaper`).

A *service* has a name, for messages, and a log file, which identifies it: only one service at a time writes to a log.
The constructor returns when the program was started, not when it is ready; `wait_until` waits for that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from infra.local import subreaper

_TAIL_BYTES = 4000
_POLL_S = 0.02
_PREDECESSOR_S = 20.0  # longer than any grace period


class ServiceError(Exception):
    """A service did not start or did not become ready. The message ends with the last lines of its log."""


class ServiceEnded(ServiceError):
    """A service ended before it was ready, or failed."""


class Service:
    """A running program. It runs from the constructor on, until `stop` or the end of this process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        in_user_namespace: bool = False,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Start `command`, with `environment` as its whole environment (default: ours). `prepare` is called before each
        start.

        `log` is truncated by each start and identifies the service: a start waits until the previous service with the
        same log has ended. Without a log the program inherits this process's output. `stop` sends `stop_signal`, and
        SIGKILL after `grace_s` seconds. With `in_user_namespace` the program runs in a user namespace in which root is
        an ordinary user, for programs that refuse to run as root. Raises ServiceError.
        """
        self.name = name
        self.log = log
        self.is_ready: Callable[[], bool] = lambda: True
        """Whether it does its work, beyond that it runs. Whoever starts it may set this."""
        self._command = tuple(command)
        self._environment = dict(os.environ if environment is None else environment)
        self._directory = directory
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        self._in_user_namespace = in_user_namespace
        self._prepare = prepare
        self._start(truncate=True)

    def restart(self) -> None:
        """Start a program that has ended again, with the same command; its log goes on. Raises ServiceError."""
        self.stop()
        self._start(truncate=False)

    def _start(self, *, truncate: bool) -> None:
        self._prepare()
        self.started = datetime.now(UTC)
        program = [sys.executable, "-I", "-S", subreaper.__file__]
        namespace = "mapped" if self._in_user_namespace else "plain"
        options = [str(os.getpid()), str(self._grace_s), str(int(self._stop_signal)), namespace]
        output = None if self.log is None else _open_log(self.name, self.log, truncate=truncate)
        pid_read, pid_write = os.pipe()
        try:
            self._subreaper = subprocess.Popen(
                [*program, *options, str(pid_write), *self._command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=self._directory,
                pass_fds=[pid_write],
                start_new_session=True,
            )
        finally:
            os.close(pid_write)
            if output is not None:
                os.close(output)
        with os.fdopen(pid_read, "rb") as pipe:
            self.pid = int(pipe.read() or 0)

    @property
    def subreaper_pid(self) -> int:
        return self._subreaper.pid

    def poll(self) -> int | None:
        """None while the program runs, then its exit status, negative for a signal."""
        status = self._subreaper.poll()
        return None if status is None else (128 - status if status > 128 else status)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the program and all its descendants have ended, and return its exit status.

        Raises subprocess.TimeoutExpired.
        """
        self._subreaper.wait(timeout_s)
        status = self.poll()
        assert status is not None  # noqa: S101 - for the type checker: wait returned
        return status

    def stop(self) -> None:
        """End the program with all its descendants, and wait until they have ended. May be called again."""
        if self._subreaper.stdin is not None:
            self._subreaper.stdin.close()
        try:
            self._subreaper.wait(self._grace_s + 10)
        except subprocess.TimeoutExpired:  # the subreaper itself is stopped (SIGSTOP)
            self._subreaper.kill()
            self._subreaper.wait()
        if self._subreaper.returncode < 0 and self.pid:
            subreaper.signal_group(self.pid, signal.SIGKILL)

    def wait_until(self, ready: Callable[[], bool], *, deadline_s: float, interval_s: float = 0.1) -> None:
        """Call `ready` every `interval_s` until it returns True.

        Raises ServiceEnded if the service ends first, ServiceError if the deadline passes first.
        """
        end = time.monotonic() + deadline_s
        while True:
            status = self.poll()
            if status is not None:
                raise ServiceEnded(f"{self.name} exited with status {status} before it was ready{self.tail()}")
            if ready():
                return
            if time.monotonic() > end:
                raise ServiceError(f"{self.name} was not ready within {deadline_s:.0f} s{self.tail()}")
            time.sleep(interval_s)

    def tail(self) -> str:
        """The last lines of its log, as the last part of a message."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
        return f". The last lines of {self.log}:\n{text}" if text else f". {self.log} is empty"

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
    in_user_namespace: bool = False,
) -> None:
    """Run a program as a service to its end. Raises ServiceEnded if it fails."""
    with Service(
        name, command, log=log, environment=environment, directory=directory, in_user_namespace=in_user_namespace
    ) as service:
        status = service.wait()
        if status != 0:
            raise ServiceEnded(f"{name} exited with status {status}{service.tail()}")


def wait_until_gone(log: Path, timeout_s: float = _PREDECESSOR_S) -> bool:
    """Wait until every process that writes to this log has ended. Returns False on timeout."""
    if not log.exists():
        return True
    descriptor = os.open(log, os.O_RDONLY)
    try:
        return take_lock(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def _open_log(name: str, log: Path, *, truncate: bool) -> int:
    """Open and lock the log. Every process that inherits the descriptor holds the lock."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if not take_lock(descriptor, _PREDECESSOR_S):
        os.close(descriptor)
        raise ServiceError(
            f"{name} cannot start: a process of an earlier start still has {log} open. End that process first"
        )
    if truncate:
        os.ftruncate(descriptor, 0)
    return descriptor


def take_lock(descriptor: int, timeout_s: float) -> bool:
    """Lock an open file. Returns False on timeout. The kernel releases the lock with the last descriptor."""
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
