"""Starts the engine's own process for one job, and gets its answer.

A *job* is one question to llama.cpp, named in `paddock.engine.worker`. A bad file or a bad build may end that process
with a signal, run for ever or take all memory; whatever it does, the caller gets an error of `paddock.errors`, and no
process stays behind.

The child gets the request as JSON on its standard input and answers on a pipe of its own, since native code prints to
standard output. Its standard error is the engine's *log*: the first and last of it are kept, for people. It is never
parsed for facts, since a file's metadata can print what it likes there; what the engine says is read in the child,
message by message. The child has no token and no key in its environment, dies with its parent, and dumps no core.

This module does not know what a job does, and does not import llama_cpp.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from paddock import errors
from paddock.errors import (
    EngineCrashed,
    EngineOutOfMemory,
    MissingShard,
    NoPermission,
    NoSuchFile,
    PaddockError,
)
from paddock.model.quantization import group
from paddock.settings import child_environment

_ROOT = Path(__file__).resolve().parents[2]
_HEAD_BYTES = 64 * 1024
_TAIL_BYTES = 192 * 1024
_ANSWER_BYTES = 4 * 1024 * 1024
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")
_TELLING = re.compile(r"error|assert|abort|fail|refus|unknown|invalid|corrupt|exceed|limit", re.IGNORECASE)
_STARVED = re.compile(r"bad_alloc|MemoryError|failed to allocate|out of memory|mem_buffer != NULL", re.IGNORECASE)

_CHILD_ERRORS = (
    errors.IncompatibleModel,
    errors.MalformedGguf,
    errors.EngineOutOfMemory,
    errors.EngineTooOld,
    errors.ModelRejected,
    errors.ConflictingConfiguration,
    errors.BadSetting,
)
"""What a child may answer with: it cannot make its parent raise anything else."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job gave back: `result` as the job's caller knows it, and the engine's `log` (bounded, printable)."""

    result: dict[str, object]
    log: str


class BoundedLog:
    """The first and the last bytes of a stream that may be endless."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._lost_bytes = 0

    def add(self, data: bytes) -> None:
        room = _HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        over = len(self._tail) - _TAIL_BYTES
        if over > 0:
            del self._tail[:over]
            self._lost_bytes += over

    def text(self) -> str:
        gap = f"\n[{self._lost_bytes} bytes of the log are left out]\n".encode() if self._lost_bytes else b""
        return _UNPRINTABLE.sub("?", (bytes(self._head) + gap + bytes(self._tail)).decode(errors="replace"))


def run(
    job: str,
    arguments: Mapping[str, object],
    *,
    timeout_s: float,
    memory_limit_bytes: int | None = None,
    descriptors: Sequence[int] = (),
) -> Answer:
    """Run one job in a process of its own, and wait for its answer.

    `arguments` are JSON; `descriptors` are open files that the child inherits under the same numbers (see `opened`).
    `memory_limit_bytes` bounds what the child allocates; a model that it maps is not counted.

    Raises EngineCrashed (a signal, an exit without an answer, or no answer within `timeout_s`), and what the job
    itself found: EngineOutOfMemory, IncompatibleModel, MalformedGguf, ModelRejected, ConflictingConfiguration,
    BadSetting.
    """
    with ExitStack() as open_files:
        theirs, ours = _pipe(open_files)
        request = {
            "job": job,
            "arguments": dict(arguments),
            "parent": os.getpid(),
            "answer": theirs.fileno(),
            "memory_limit_bytes": memory_limit_bytes,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "paddock.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), *descriptors),
            cwd=_ROOT,  # where `-m` finds this package, and nothing that lies in the caller's directory
            # An abort would start a debugger, and numpy's library a thread for each core that nothing here uses.
            env=child_environment(GGML_NO_BACKTRACE="1", OPENBLAS_NUM_THREADS="1"),
            process_group=0,
        )
        try:
            theirs.close()
            answer, log = _converse(process, ours, json.dumps(request).encode(), timeout_s=timeout_s)
        finally:
            _end(process)
    if answer is None:
        raise EngineCrashed(
            f"the engine gave no answer to {job!r} within {timeout_s:g} s ({last_words(log)})",
            cure="try again when the machine is less busy, or raise PADDOCK_ENGINE_TIMEOUT_S",
        )
    return Answer(_result(job, answer, process.returncode, log), log)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, ...]]:
    """Open a model for a child: one descriptor for each shard, in order.

    The child reads these very files, whatever happens to their names meanwhile: a link that is swapped after the
    audit changes nothing. A caller that verified the bytes through a descriptor of its own gives `/proc/self/fd/N` as
    the path.

    Raises NoSuchFile, NoPermission, or MissingShard.
    """
    descriptors: list[int] = []
    try:
        for shard in shards(path):
            descriptors += [_open_regular(shard)]
        yield tuple(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def paths_of(descriptors: Sequence[int]) -> list[str]:
    """The names under which a child that inherits `descriptors` opens them."""
    return [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]


def last_words(log: str) -> str:
    """The last line of a log that tells why, or the last line at all."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" .\t")]
    telling = [line for line in lines[-40:] if _TELLING.search(line)]
    words = (telling or lines or ["it said nothing"])[-1]
    return words if len(words) <= 300 else f"{words[:297]}..."


def error_said(said: Mapping[str, object]) -> PaddockError:
    """The error that a child of ours reported as `{kind, message, cure}`, kept to what a child may raise and say."""
    kind = next((kind for kind in _CHILD_ERRORS if kind.__name__ == said.get("kind")), EngineCrashed)
    message, cure = (_UNPRINTABLE.sub("?", str(said.get(key, "")))[:600] for key in ("message", "cure"))
    return kind(message, cure=cure)


def shards(path: Path) -> list[Path]:
    """All shards of the split model that `path` belongs to, or `path` alone."""
    alone = group([(path.name, 0)])
    if not alone or alone[0].declared == 1 or not path.exists():
        return [path]
    whole = next(one for one in group((other.name, 0) for other in path.parent.iterdir()) if path.name in one.paths)
    if whole.missing:
        raise MissingShard(f"the split model {path} lacks {', '.join(whole.missing[:3])}", cure="pull the model again")
    return [path.parent / name for name in whole.paths]


def _open_regular(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would block the open for ever
    except FileNotFoundError:
        raise NoSuchFile(f"{path} is not there", cure="give the path of a .gguf file") from None
    except PermissionError:
        raise NoPermission(f"{path} may not be read", cure="correct its permissions") from None
    except OSError as error:
        raise NoSuchFile(f"{path} cannot be opened: {error.strerror}", cure="give the path of a .gguf file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoSuchFile(f"{path} is not a regular file", cure="give the path of a .gguf file")
    return descriptor


def _pipe(open_files: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    ours = open_files.enter_context(os.fdopen(read, "rb", buffering=0))
    return open_files.enter_context(os.fdopen(write, "wb", buffering=0)), ours


def _converse(
    process: subprocess.Popen[bytes], answers: IO[bytes], request: bytes, *, timeout_s: float
) -> tuple[bytes | None, str]:
    """Send the request, and read answer and log until the child has closed both.

    The answer is None when time ran out.
    """
    deadline = time.monotonic() + timeout_s
    log, answer = BoundedLog(), bytearray()
    assert process.stdin is not None  # noqa: S101 - says to the type checker what PIPE above means
    assert process.stderr is not None  # noqa: S101 - the same
    with suppress(BrokenPipeError), process.stdin:  # a child that died at once says why on the other pipes
        process.stdin.write(request)
    with selectors.DefaultSelector() as waiting, process.stderr as stderr:
        waiting.register(stderr, selectors.EVENT_READ)
        waiting.register(answers, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(deadline - time.monotonic(), 0))
            if not ready:
                return None, log.text()
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    waiting.unregister(key.fileobj)
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
    """The job's result, or the error that fits how the child ended."""
    try:
        document = json.loads(answer)
    except ValueError:
        raise _crash(job, status, log) from None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise error_said(document["error"])
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
    if _STARVED.search(last_words(log)):
        return EngineOutOfMemory(
            f"the engine ran out of memory during {job!r} ({last_words(log)})",
            cure="use a smaller quantization or context, or free memory",
        )
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status} and no answer"
    crashed = EngineCrashed(
        f"the engine {how} during {job!r} ({last_words(log)})",
        cure="run `paddock inspect --deep` on the file; a build with GGML_NATIVE=OFF rules out the processor",
    )
    crashed.by_signal = status < 0
    return crashed
