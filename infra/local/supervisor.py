"""Run the local stack in the background, and let other processes find and stop it.

The *supervisor* is the process that runs the stack. It holds a lock on the file `lock` in the state directory, which
contains its pid: the kernel releases the lock when that process dies, so a stale file has no effect. `stack.json` is
written when all parts are ready; it lists the services, and the environment for using them. It contains S3's keys and
has mode 0600.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from infra.local.healing import Healer
from infra.local.service import take_lock, wait_until_gone
from infra.local.stack import Stack
from infra.local.state import CHECKOUT, private_directory, read_state, write_state

_POLL_S = 0.1
_LOCK_TIMEOUT_S = 0.3  # other processes take the lock for a moment, to test whether it is free


@dataclass(frozen=True)
class RunningStack:
    """A stack that is ready, as its supervisor describes it in `stack.json`."""

    pid: int
    ui: str
    environment: dict[str, str] = field(repr=False)
    services: dict[str, int]  # name: pid of its subreaper
    restarts: dict[str, int]


def acquire(state: Path) -> int | None:
    """Take the lock of a state directory, write our pid to it, and return its descriptor; None if another holds it."""
    descriptor = os.open(private_directory(state) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not take_lock(descriptor, _LOCK_TIMEOUT_S):
        os.close(descriptor)
        return None
    _description(state).unlink(missing_ok=True)  # left by an owner that was killed
    _write_pid(descriptor)
    return descriptor


def _write_pid(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def owner(state: Path) -> int | None:
    """The pid of the process that holds the lock; None if no process does."""
    try:
        descriptor = os.open(state / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, 20) or 0)
    finally:
        os.close(descriptor)
    return None


def running(state: Path) -> RunningStack | None:
    """The stack if it is ready, else None."""
    if owner(state) is None:
        return None
    content: dict[str, Any] = read_state(_description(state))
    return RunningStack(**content) if content else None


def launch(state: Path, lock: int, *, heartbeat: bool) -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process and its terminal. It inherits `lock`."""
    command = [sys.executable, "-m", "infra.local", "--state", str(state), "supervise", "--lock", str(lock)]
    with log_path(state).open("wb") as output:
        return subprocess.Popen(
            [*command, "--heartbeat"] if heartbeat else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock],
            cwd=CHECKOUT,
        )


def log_path(state: Path) -> Path:
    return state / "supervisor.log"


def supervise(state: Path, lock: int, *, heartbeat: bool) -> int:
    """Run the stack until SIGTERM or SIGINT. A service that ends by itself is started again, and both are logged."""
    os.set_inheritable(lock, False)
    _write_pid(lock)
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    with Stack(state, heartbeat=heartbeat, on_line=lambda line: print(line, flush=True)) as stack:
        healer = Healer(stack.services, on_line=_print_with_time)
        try:
            _describe(state, stack, healer)
            while not stop_requested.wait(0.5):
                if healer.step():
                    _describe(state, stack, healer)
        finally:
            _description(state).unlink(missing_ok=True)
    return 0


def _print_with_time(line: str) -> None:
    print(f"{datetime.now().astimezone():%F %T} {line}", flush=True)


def _describe(state: Path, stack: Stack, healer: Healer) -> None:
    assert stack.prefect is not None  # noqa: S101 - for the type checker: all parts are started
    content = {
        "pid": os.getpid(),
        "ui": stack.prefect.ui,
        "environment": stack.environment,
        "services": {one.service.name: one.service.subreaper_pid for one in healer.watched},
        "restarts": {one.service.name: one.restarts for one in healer.watched},
    }
    write_state(_description(state), content)


def _description(state: Path) -> Path:
    return state / "stack.json"


def stop(state: Path, *, timeout_s: float = 120) -> bool:
    """Stop the supervisor, and wait until it and all its services have ended. Returns False if none was running.

    Raises TimeoutError.
    """
    signalled: int | None = None
    end = time.monotonic() + timeout_s
    while (holder := owner(state)) is not None:
        if holder not in (0, signalled):  # `up` hands the lock to its supervisor, which then needs a signal of its own
            signalled = holder
            with suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
        if time.monotonic() > end:
            raise TimeoutError(f"process {holder} did not end within {timeout_s:.0f} s; see {log_path(state)}")
        time.sleep(_POLL_S)
    # Subreapers may still be ending their services if the supervisor was killed.
    for log in state.glob("*/*.log"):
        if not wait_until_gone(log):
            raise TimeoutError(f"a process that writes to {log} did not end")
    return signalled is not None
