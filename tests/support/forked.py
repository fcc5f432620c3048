"""Run `paddock` in processes that are forked from one that has imported its modules.

A start of `python -m paddock` takes more than a second of CPU time, nearly all of it for imports. Here one process for
each test process imports the modules, and every command is a fork of it: a process of its own, with its own locks,
signals, environment, descriptors and exit status. Tests of the start itself, or with a library that is loaded before
it, run an interpreter instead.

    python -m tests.support.forked DESCRIPTOR

is the process with the modules, which never runs a command itself and has no threads. Each message on its socket is a
request in JSON, with three descriptors: of the command's standard output, of its standard error, and of a pipe to which
the command writes its process number, and another fork its exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Self

import paddock
from paddock.store.s3.connection import S3Options, connect

ROOT = Path(__file__).parents[2]
OF_HUGGINGFACE_HUB = ("filelock", "h2.connection", "httpx2", "tqdm.auto", "yaml")
"""What huggingface_hub imports. It reads the environment when it is imported, so each command imports it itself."""


class Command:
    """A running `paddock`, with the methods of `subprocess.Popen`. Its output is kept in files until it is read."""

    returncode: int | None = None

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        environment = dict(os.environ if env is None else env)
        assert "LD_PRELOAD" not in environment
        request = {"arguments": arguments, "environment": environment, "directory": str(Path.cwd())}
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - until the exit
        reader, writer = os.pipe()
        descriptors = [self._stdout.fileno(), self._stderr.fileno(), writer]
        socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
        os.close(writer)
        self._status = open(reader)  # noqa: PTH123, SIM115
        self.pid = int(self._status.readline())

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return _content(self._stdout)

    def poll(self) -> int | None:
        return self._returned(0)

    def wait(self, timeout: float | None = None) -> int:
        if (status := self._returned(timeout)) is None:
            raise subprocess.TimeoutExpired("paddock", timeout or 0)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.output, _content(self._stderr)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its exit status is not written yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _returned(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.readline())
        return self.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for file in (self._stdout, self._stderr, self._status):
            file.close()


def _content(file: IO[bytes]) -> str:
    """The content of a file whose position the command shares."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


@cache
def _server() -> socket.socket:
    """The socket of the process with the modules, which ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PADDOCK_"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for signal_number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(signal_number, signal.SIG_IGN)
    _import_modules()
    gc.collect()
    gc.freeze()  # else the first collection in each command copies every page of this process
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _run(json.loads(message), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _import_modules() -> None:
    """Import the library without `paddock.engine`, which commands start as programs of its own, and make an S3 client,
    which reads long descriptions."""
    for module in pkgutil.walk_packages(paddock.__path__, "paddock."):
        if not module.name.startswith(("paddock.engine", "paddock.__main__")):
            importlib.import_module(module.name)
    for name in OF_HUGGINGFACE_HUB:
        importlib.import_module(name)
    connect(S3Options())


def _run(request: dict[str, object], stdout: int, stderr: int, status: int) -> None:
    """Run the command in a fork, and write its exit status when it has ended. Returns in the fork only."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) != 0:
        for descriptor in (stdout, stderr):
            os.close(descriptor)
        _, ended = os.waitpid(pid, 0)
        os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, target in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.write(status, f"{os.getpid()}\n".encode())
    os.close(status)
    assert isinstance(request["environment"], dict)
    assert isinstance(request["arguments"], list)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(str(request["directory"]))
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["paddock", *request["arguments"]]
    importlib.import_module("paddock.cli.main").main()


if __name__ == "__main__":
    main()
