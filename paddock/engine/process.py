"""Start llama.cpp's child process, send it one job as JSON, and return the result.

A *job* is one request to llama.cpp, named in `paddock.engine.jobs`. A bad file or a bad build may end the child with a
signal, make it run forever or use all memory. In each case the caller gets an error of `paddock.errors`, and no process
is left behind.

The child reads the request as JSON from standard input and answers on a separate pipe, since native code prints to
standard output. Its standard error is the engine's *log*: its beginning and end are kept for people. It is never parsed
for facts, since a file's metadata can print anything there; the child extracts facts itself, message by message. The
child has no token and no key in its environment, dies with its parent, and dumps no core. It confines itself to the
files that it is given (`worker`), and cannot look into this process.

This module does not know what a job does, and does not import llama_cpp.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from paddock import errors, settings
from paddock.confinement.parent import unreadable
from paddock.errors import (
    EngineCrashed,
    EngineOutOfMemory,
    MissingShard,
    NoPermission,
    NoSuchFile,
    PaddockError,
)
from paddock.model.quantization import group_shards
from paddock.settings import child_environment
from paddock.timings import phase
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

_ROOT = Path(__file__).resolve().parents[2]
_HEAD_BYTES = 64 * 1024
_TAIL_BYTES = 192 * 1024
_ANSWER_BYTES = 4 * 1024 * 1024
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")
_ERROR_WORDS = re.compile(r"error|assert|abort|fail|refus|unknown|invalid|corrupt|exceed|limit", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"bad_alloc|MemoryError|failed to allocate|out of memory|mem_buffer != NULL", re.IGNORECASE)

_CHILD_ERRORS = (
    errors.IncompatibleModel,
    errors.MalformedGguf,
    errors.EngineOutOfMemory,
    errors.EngineTooOld,
    errors.ModelRejected,
    errors.ConflictingConfiguration,
    errors.BadSetting,
)
"""Errors that a child may report. Any other kind becomes EngineCrashed, so that a child cannot choose the exception."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON `result` of a job, and the engine's `log` (bounded and printable)."""

    result: dict[str, object]
    log: str


class BoundedLog:
    """The first 64 KiB and the last 192 KiB of a stream of any length."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped_bytes = 0

    def add(self, data: bytes) -> None:
        free = _HEAD_BYTES - len(self._head)
        self._head += data[:free]
        self._tail += data[free:]
        excess = len(self._tail) - _TAIL_BYTES
        if excess > 0:
            del self._tail[:excess]
            self._dropped_bytes += excess

    def text(self) -> str:
        gap = f"\n[{self._dropped_bytes} bytes of the log omitted]\n".encode() if self._dropped_bytes else b""
        return _UNPRINTABLE.sub("?", (bytes(self._head) + gap + bytes(self._tail)).decode(errors="replace"))


def run(
    job: str,
    arguments: Mapping[str, object],
    *,
    timeout_s: float,
    memory_limit_bytes: int | None = None,
    descriptors: Sequence[int] = (),
    reads: Sequence[Path] = (),
    writes: Sequence[Path] = (),
) -> Answer:
    """Run one job in a child process, and wait for its answer.

    `arguments` must be JSON; `descriptors` are open files that the child inherits under the same numbers (see
    `open_shards`). `memory_limit_bytes` limits what the child allocates; a model that it maps is not counted.

    The child can open the files of `descriptors` again, and other files only below `reads` and, as this process's own
    user, below the directories `writes`.

    Raises EngineCrashed for a signal, an exit without an answer, or no answer within `timeout_s`. Raises what the job
    itself reports: EngineOutOfMemory, EngineTooOld, IncompatibleModel, MalformedGguf, ModelRejected,
    ConflictingConfiguration, BadSetting.
    """
    with phase("engine"), ExitStack() as open_files:
        child_end, parent_end = _pipe(open_files)
        request = {
            "job": job,
            "arguments": dict(arguments),
            "parent": os.getpid(),
            "answer": child_end.fileno(),
            "memory_limit_bytes": memory_limit_bytes,
            "writes": [str(path) for path in writes],
            **confinement_settings(*reads),
        }
        open_files.enter_context(unreadable())
        process = subprocess.Popen(
            [sys.executable, "-m", "paddock.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(child_end.fileno(), *descriptors),
            cwd=_ROOT,  # `-m` finds this package there, and imports nothing from the caller's directory
            # By default an abort starts a debugger, and numpy's library starts an unused thread for each core.
            env=child_environment(GGML_NO_BACKTRACE="1", OPENBLAS_NUM_THREADS="1"),
            process_group=0,
        )
        try:
            child_end.close()
            answer, log = _exchange(process, parent_end, json.dumps(request).encode(), timeout_s=timeout_s)
        finally:
            _end(process)
    if answer is None:
        raise EngineCrashed(
            f"the engine gave no answer to {job!r} within {timeout_s:g} s ({last_error_line(log)})",
            cure="try again when the machine is less busy, or raise PADDOCK_ENGINE_TIMEOUT_S",
        )
    return Answer(_result(job, answer, process.returncode, log), log)


def confinement_settings(*reads: Path) -> dict[str, object]:
    """Return the part of a child's request that says as which user it runs, what else than the model it may read, and
    which directories are private."""
    chosen = settings.load()
    private = [chosen.volume]
    with suppress(RuntimeError):  # a user without a home directory
        private.append(Path.home())
    return {
        "user": chosen.engine_user,
        "reads": [str(path) for path in (*reads, *(chosen.engine_reads or ()))],
        "library_path": child_environment().get("LD_LIBRARY_PATH", ""),
        "private": [str(path.resolve()) for path in private],
    }


@contextmanager
def open_shards(path: Path) -> Iterator[tuple[int, ...]]:
    """Open a model for a child process, as a context manager: one descriptor for each shard, in order.

    The child reads exactly these files, even if their names are changed meanwhile: a link that is swapped after the
    audit has no effect. A caller that verified the bytes through its own descriptor passes `/proc/self/fd/N` as the
    path.

    Raises NoSuchFile, NoPermission or MissingShard.
    """
    descriptors: list[int] = []
    try:
        for shard in shards(path):
            descriptors += [_open_model(shard)]
        yield tuple(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def paths_of(descriptors: Sequence[int]) -> list[str]:
    """Return the paths under which a child that inherits `descriptors` opens them."""
    return [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]


def last_error_line(log: str) -> str:
    """Return the last line of a log that looks like an error, else its last line, in at most 300 characters."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" .\t")]
    errors_found = [line for line in lines[-40:] if _ERROR_WORDS.search(line)]
    line = (errors_found or lines or ["it logged nothing"])[-1]
    return line if len(line) <= 300 else f"{line[:297]}..."


def error_from_json(value: Mapping[str, object]) -> PaddockError:
    """Build the error that a child process reported as `{kind, message, cure}`.

    A kind that a child may not report becomes EngineCrashed; texts are made printable and cut to 600 characters.
    """
    kind = next((kind for kind in _CHILD_ERRORS if kind.__name__ == value.get("kind")), EngineCrashed)
    message, cure = (_UNPRINTABLE.sub("?", str(value.get(key, "")))[:600] for key in ("message", "cure"))
    return kind(message, cure=cure)


def shards(path: Path) -> list[Path]:
    """Return all shards of the split model that `path` belongs to, in order, or `path` alone. Raises MissingShard."""
    alone = group_shards([(path.name, 0)])
    if not alone or alone[0].declared == 1 or not path.exists():
        return [path]
    models = group_shards((other.name, 0) for other in path.parent.iterdir())
    model = next(model for model in models if path.name in model.paths)
    if model.missing:
        raise MissingShard(
            f"shards of the split model {path} are missing: {', '.join(model.missing[:3])}", cure="pull the model again"
        )
    return [path.parent / name for name in model.paths]


def _open_model(path: Path) -> int:
    try:
        return open_regular(path, follow=True)
    except UnusableContent:
        raise NoSuchFile(f"{path} is not a regular file", cure="give the path of a .gguf file") from None
    except FileNotFoundError:
        raise NoSuchFile(f"{path} does not exist", cure="give the path of a .gguf file") from None
    except PermissionError:
        raise NoPermission(f"no permission to read {path}", cure="correct its permissions") from None
    except OSError as error:
        raise NoSuchFile(f"{path} cannot be opened: {error.strerror}", cure="give the path of a .gguf file") from None


def _pipe(open_files: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    parent_end = open_files.enter_context(os.fdopen(read, "rb", buffering=0))
    return open_files.enter_context(os.fdopen(write, "wb", buffering=0)), parent_end


def _exchange(
    process: subprocess.Popen[bytes], answers: IO[bytes], request: bytes, *, timeout_s: float
) -> tuple[bytes | None, str]:
    """Send the request, and read (answer, log) until the child has closed both; the answer is None on a timeout."""
    deadline = time.monotonic() + timeout_s
    log, answer = BoundedLog(), bytearray()
    assert process.stdin is not None  # noqa: S101 - for the type checker: PIPE was passed
    assert process.stderr is not None  # noqa: S101 - the same
    with suppress(BrokenPipeError), process.stdin:  # if the child died at once, the other pipes say why
        process.stdin.write(request)
    with selectors.DefaultSelector() as selector, process.stderr as stderr:
        selector.register(stderr, selectors.EVENT_READ)
        selector.register(answers, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                return None, log.text()
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd == stderr.fileno():
                    log.add(data)
                elif len(answer) < _ANSWER_BYTES:
                    answer += data
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return None, log.text()
    return bytes(answer), log.text()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _result(job: str, answer: bytes, status: int, log: str) -> dict[str, object]:
    """Return the job's result, or raise the error that it reported or that fits how the child ended."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        raise _crash(job, status, log) from None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise error_from_json(document["error"])
    if status != 0 or not isinstance(document, dict) or not isinstance(document.get("result"), dict):
        raise _crash(job, status, log)
    result: dict[str, object] = document["result"]
    return result


def _crash(job: str, status: int, log: str) -> PaddockError:
    if status == -signal.SIGKILL:
        return EngineCrashed(
            f"the engine was killed (SIGKILL) during {job!r}",
            cure="the system does this when memory runs out: use a smaller quantization or context, or free memory",
        )
    if _OUT_OF_MEMORY.search(last_error_line(log)):
        return EngineOutOfMemory(
            f"the engine ran out of memory during {job!r} ({last_error_line(log)})",
            cure="use a smaller quantization or context, or free memory",
        )
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status} and no answer"
    crashed = EngineCrashed(
        f"the engine {how} during {job!r} ({last_error_line(log)})",
        cure="run `paddock inspect --deep` on the file; a build with GGML_NATIVE=OFF rules out the processor",
    )
    crashed.by_signal = status < 0
    return crashed
