"""The stack as something that stays up without a terminal, and how others find it.

A *supervisor* is the process that holds the stack. Whoever holds the lock on the state directory's `lock` owns it, and
its pid is in that file: the kernel frees the lock when the owner dies, so that a stale file never counts. `stack.json`
is written when all is ready, and says what runs and how to use it. It holds S3's keys, and only its owner reads it.
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
from pathlib import Path
from typing import Any

from infra.local.service import take_lock, wait_until_gone
from infra.local.stack import Stack
from infra.local.state import CHECKOUT, private_directory, read_state, write_state

_POLL_S = 0.1
_GLANCE_S = 0.3  # others take the lock for a moment, to see whether it is free


@dataclass(frozen=True)
class Running:
    """What the supervisor says of a stack that is ready."""

    pid: int
    ui: str
    environment: dict[str, str] = field(repr=False)
    services: dict[str, int]  # name, and the pid of its guard


def acquire(state: Path) -> int | None:
    """The lock of a state directory, as a descriptor, now with our pid in it; None when another process holds it."""
    descriptor = os.open(private_directory(state) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not take_lock(descriptor, _GLANCE_S):
        os.close(descriptor)
        return None
    (state / "stack.json").unlink(missing_ok=True)  # of an owner that was killed
    sign(descriptor)
    return descriptor


def sign(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def owner(state: Path) -> int | None:
    """The pid of the process that holds the lock; None when nobody does."""
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


def running(state: Path) -> Running | None:
    """The stack that is up and ready, if one is."""
    if owner(state) is None:
        return None
    content: dict[str, Any] = read_state(state / "stack.json")
    return Running(**content) if content else None


def launch(state: Path, lock: int, *, heartbeat: bool) -> subprocess.Popen[bytes]:
    """A supervisor that outlives this process and its terminal. It takes over `lock`."""
    command = [sys.executable, "-m", "infra.local", "--state", str(state), "supervise", "--lock", str(lock)]
    with log(state).open("wb") as output:
        return subprocess.Popen(
            [*command, "--heartbeat"] if heartbeat else command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock],
            cwd=CHECKOUT,
        )


def log(state: Path) -> Path:
    return state / "supervisor.log"


def supervise(state: Path, lock: int, *, heartbeat: bool) -> int:
    """Hold the stack until SIGTERM or SIGINT. A service that ends by itself is reported, and the others go on."""
    os.set_inheritable(lock, False)
    sign(lock)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    with Stack(state, heartbeat=heartbeat, say=lambda line: print(line, flush=True)) as stack:
        assert stack.prefect is not None  # noqa: S101 - for the type checker: it is one of the parts
        ready = state / "stack.json"
        services = {service.name: service.guard_pid for service in stack.services}
        content = {"pid": os.getpid(), "ui": stack.prefect.ui, "environment": stack.environment, "services": services}
        write_state(ready, content)
        left = stack.services
        try:
            while not asked.wait(1):
                for service in [each for each in left if each.poll() is not None]:
                    left.remove(service)
                    print(f"{service.name} ended with status {service.poll()}{service.tail()}", flush=True)
        finally:
            ready.unlink(missing_ok=True)
    return 0


def stop(state: Path, *, timeout_s: float = 120) -> bool:
    """Ask the owner to end, and wait until it and all that it started have. False when none did run."""
    asked: int | None = None
    end = time.monotonic() + timeout_s
    while (holder := owner(state)) is not None:
        if holder not in (0, asked):  # a start hands the lock on to its supervisor: then that one is asked
            asked = holder
            with suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
        if time.monotonic() > end:
            raise TimeoutError(f"process {holder} did not end within {timeout_s:.0f} s; see {log(state)}")
        time.sleep(_POLL_S)
    # Guards may still be at work when their owner was killed.
    for each in state.glob("*/*.log"):
        if not wait_until_gone(each):
            raise TimeoutError(f"a process that writes {each} did not end")
    return asked is not None
