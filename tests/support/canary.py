"""Load many small models in the engine, one process each, and check that its output is finite.

`python -m tests.support.canary` reads a path from each line of its input, and prints `ok`, `refused` (the engine
reported an error), `not finite`, or how the process died or hung. The library is loaded once, before the processes
fork, so that a model takes a few hundredths of a second.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TIMEOUT_S = 20.0
_MEMORY_BYTES = 2 << 30
_OK, _REFUSED, _NOT_FINITE = 0, 3, 4
_RESULTS = {_OK: "ok", _REFUSED: "refused", _NOT_FINITE: "not finite"}


class Canary:
    """The client of a running `python -m tests.support.canary`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def check(self, path: Path) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip() or "the canary process died"


@contextmanager
def canary() -> Iterator[Canary]:
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.canary"],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Canary(process)
        finally:
            process.kill()


def main() -> None:
    from paddock.engine import timing  # noqa: F401 loads the native library before the processes fork

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_try(line.strip()))
        print(_result(child), flush=True)


def _try(path: str) -> int:
    from paddock.engine import canary
    from paddock.engine.bindings import Session
    from paddock.engine.log import Log
    from paddock.engine.parameters import Parameters
    from paddock.errors import ModelRejected, PaddockError

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        with Session([path], Parameters(n_ctx=256, n_threads=1), Log()) as session:
            canary.canary(session)
    except ModelRejected:
        return _NOT_FINITE
    except PaddockError:
        return _REFUSED
    return _OK


def _result(child: int) -> str:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return _RESULTS.get(code, f"died with {signal.Signals(-code).name if code < 0 else code}")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"hung for {_TIMEOUT_S:g} s"


if __name__ == "__main__":
    main()
