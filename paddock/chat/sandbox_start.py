"""Start sandboxed subprocesses for chat templates: forks of one process, which has imported their modules.

Importing the modules takes most of the time of a start, and an audit of many templates starts many subprocesses. The
process to fork from (`sandbox_server`) has an empty environment, is started with the first template, and ends with this
process.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from paddock.errors import EngineCrashed

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("jinja2", "markupsafe")
"""The packages that the subprocess imports beyond the standard library and Paddock."""
_START_S = 60.0
"""Limit on the wall time of a start, which takes a tenth of a second on an idle machine."""


class SandboxedProcess:
    """A running subprocess with pipes to its standard input and output."""

    def __init__(self, pid: int, descriptor: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._descriptor: int | None = descriptor
        self._lock = threading.Lock()

    def kill(self) -> None:
        """End it; without effect after `close`. Another thread may call it at any time."""
        with self._lock, suppress(ProcessLookupError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """End it, wait for its end, and close the pipes."""
        self.kill()
        with self._lock:
            if self._descriptor is not None:
                select.select([self._descriptor], [], [])
                os.close(self._descriptor)
                self._descriptor = None
        for stream in (self.stdin, self.stdout):
            with suppress(OSError):  # unwritten data is lost with the process
                stream.close()


class _Server:
    """The process to fork from. One thread at a time uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[socket.socket, subprocess.Popen[bytes]] | None = None

    def fork(self, descriptors: tuple[int, int]) -> tuple[int, int]:
        """(number, descriptor) of a new subprocess with this standard input and output. Raises EngineCrashed."""
        with self._lock:
            for _ in range(2):  # once more where it was killed since it was last used
                if self._running is None:
                    self._start()
                with suppress(OSError):
                    return self._ask(descriptors)
                self._stop()
        raise EngineCrashed("the subprocess for chat templates does not start", cure="check that jinja2 is installed")

    def _ask(self, descriptors: tuple[int, int]) -> tuple[int, int]:
        assert self._running is not None  # noqa: S101 - for the type checker: `fork` started it
        connection, _ = self._running
        socket.send_fds(connection, [b"+"], list(descriptors))
        answer, received, _, _ = socket.recv_fds(connection, 32, 1)
        if not answer or not received:
            raise ConnectionResetError
        return int(answer), received[0]

    def _start(self) -> None:
        from paddock import settings  # not needed to import this module

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-X",
                    "utf8",
                    "-c",
                    _program(),
                    str(theirs.fileno()),
                    str(settings.load().engine_user),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
                cwd="/",
                pass_fds=(theirs.fileno(),),
                process_group=0,  # an interrupt from the terminal is for this process, which ends that one
            )
        ours.settimeout(_START_S)
        self._running = ours, process

    def _stop(self) -> None:
        if self._running is not None:
            connection, process = self._running
            self._running = None
            connection.close()
            process.kill()
            process.wait()

    def prepare(self) -> None:
        """Start the process without waiting until it is ready. Where it cannot be started, the first `fork` says so."""
        with self._lock, suppress(OSError):
            if self._running is None:
                self._start()

    def stop(self) -> None:
        """End the process; the next subprocess starts another one."""
        with self._lock:
            self._stop()

    def forget(self) -> None:
        """Leave the process to the one that this one was forked from."""
        self._lock = threading.Lock()
        if self._running is not None:
            connection, process = self._running
            self._running = None
            connection.close()
            process.returncode = 0  # else it is warned of as still running


_SERVER = _Server()
prepare, stop = _SERVER.prepare, _SERVER.stop
atexit.register(stop)
os.register_at_fork(after_in_child=_SERVER.forget)


def start() -> SandboxedProcess:
    """Start a subprocess for one template. Raises EngineCrashed if it does not start."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    stdin, stdout = os.fdopen(our_output, "wb"), os.fdopen(our_input, "rb")
    try:
        pid, descriptor = _SERVER.fork((their_input, their_output))
    except BaseException:
        stdin.close()
        stdout.close()
        raise
    finally:
        os.close(their_input)
        os.close(their_output)
    return SandboxedProcess(pid, descriptor, stdin, stdout)


@cache
def _program() -> str:
    """The program of the process. It runs without the module `site`, a quarter of its start, and so has to be told
    where its packages are."""
    origins = [spec.origin for name in _PACKAGES if (spec := find_spec(name)) and spec.origin]
    directories = list(dict.fromkeys(str(Path(origin).parents[1]) for origin in origins))
    path = f"sys.path[:] = [{str(_ROOT)!r}, *sys.path, *{directories!r}]"
    return f"import sys; {path}; from paddock.chat.sandbox_server import main; main()"
