"""Build and control `fault_shim.c`: fail, kill at, or log the system calls of a process on the files below a directory.

A program is started with `environment(directory)`. It, and every process that it forks or starts, shares one state, in
a file: `Shim.arm` says what to do with which call, and the counters say afterwards what happened. A program that forks
a child for each fault, and checks its work, lets only the calls of that child's process group count.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
_CACHE = Path(__file__).parents[2] / ".cache"
_MAX_CALLS, _PATH_MAX = 65536, 4096


class Mode(IntEnum):
    """What happens at the call with the number `target`; in FAIL_FROM, at each from there on."""

    OFF = 0
    COUNT = 1
    FAIL = 2
    FAIL_FROM = 3
    SHORT = 4
    """A read or write transfers half of its bytes."""
    KILL_BEFORE = 5
    KILL_DURING = 6
    """A write writes half of its bytes before the process is killed."""
    KILL_AFTER = 7
    LOG = 8


class Kind(IntEnum):
    """Kinds of calls. Opening a file that is created is CREATE; opening or listing a directory is LIST."""

    OPEN = 0
    CREATE = 1
    READ = 2
    WRITE = 3
    TRUNCATE = 4
    ALLOCATE = 5
    SYNC = 6
    RENAME = 7
    LINK = 8
    SYMLINK = 9
    UNLINK = 10
    RMDIR = 11
    MKDIR = 12
    CHMOD = 13
    UTIME = 14
    LOCK = 15
    STATVFS = 16
    LIST = 17


K = Kind
ALL = frozenset(Kind)
CHANGES = ALL - {K.OPEN, K.READ, K.LOCK, K.STATVFS, K.LIST}
TRANSFERS = frozenset({K.READ, K.WRITE})
_GROWS = frozenset({K.CREATE, K.WRITE, K.ALLOCATE, K.SYNC, K.RENAME, K.LINK, K.SYMLINK, K.MKDIR})
ERRORS: Mapping[int, Collection[Kind]] = {
    errno.EIO: ALL,
    errno.ENOSPC: _GROWS,
    errno.EDQUOT: _GROWS,
    errno.EROFS: CHANGES,
    errno.EMFILE: frozenset({K.OPEN, K.CREATE, K.LIST}),
    errno.EACCES: ALL - {K.READ, K.WRITE, K.TRUNCATE, K.ALLOCATE, K.SYNC, K.LOCK, K.STATVFS, K.CHMOD},
}
"""The errors that are injected, and the kinds of calls that may fail with them."""


class _State(ctypes.Structure):
    _fields_ = (
        ("mode", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("target", ctypes.c_int32),
        ("counted", ctypes.c_uint32),
        ("calls", ctypes.c_int32),
        ("injected", ctypes.c_int32),
        ("lock", ctypes.c_int32),
        ("errors", ctypes.c_int32 * len(Kind)),
        ("kinds", ctypes.c_uint8 * _MAX_CALLS),
        ("root", ctypes.c_char * _PATH_MAX),
    )


@cache
def build() -> Path:
    """Compile the library, unless it is there already, and return its path."""
    library = _CACHE / f"fault-shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        compiler = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
        if compiler is None:
            raise FileNotFoundError("no C compiler: install gcc or clang")
        library.parent.mkdir(exist_ok=True)
        staged = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", staged, SOURCE, "-ldl"], check=True, timeout=60)
        staged.replace(library)
    return library


def environment(directory: Path) -> dict[str, str]:
    """The variables of a process that loads the library. `directory` gets the state and the log."""
    state = directory / "fault-state"
    state.write_bytes(bytes(ctypes.sizeof(_State)))
    return {
        "LD_PRELOAD": str(build()),
        "FAULT_SHIM_STATE": str(state),
        "FAULT_SHIM_LOG": str(directory / "fault-log"),
    }


class Shim:
    """The state that all processes with the library share."""

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self.log = Path(variables["FAULT_SHIM_LOG"])
        with Path(variables["FAULT_SHIM_STATE"]).open("r+b") as file:
            self._state = _State.from_buffer(mmap.mmap(file.fileno(), 0))

    def arm(
        self,
        mode: Mode,
        root: Path,
        *,
        group: int = 0,
        target: int = 0,
        counted: Collection[Kind] = ALL,
        error: int | None = None,
    ) -> None:
        """Reset the counters, and start. Calls below `root` of the process group `group`, by default of all
        processes, count if their kind is in `counted`. With `error`, the calls that may fail with it fail with it."""
        state = self._state
        self.disarm()
        state.root = os.fsencode(root.resolve())
        state.group, state.target, state.calls, state.injected, state.lock = group, target, 0, 0, 0
        state.counted = sum(1 << kind for kind in counted)
        for kind in Kind:
            state.errors[kind] = error if error is not None and kind in ERRORS[error] else 0
        state.mode = mode

    def disarm(self) -> None:
        self._state.mode = Mode.OFF

    @property
    def injected(self) -> int:
        """How many calls failed, were cut short, or were killed at."""
        return int(self._state.injected)

    @property
    def calls(self) -> list[Kind]:
        """The kinds of the calls that were counted, in order."""
        return [Kind(self._state.kinds[number]) for number in range(min(self._state.calls, _MAX_CALLS))]
