"""Inject faults into an operation on a volume, each in a forked child, and check the volume after each.

The directory `base` holds the volume, `models`, and what stands for a remote store, `remote`. This process has the
library of `tests.support.fault_shim` loaded, which injects the faults: the code under test is unchanged.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from paddock.errors import PaddockError
from paddock.store.volume import Volume
from tests.support.fault_shim import ALL, CHANGES, ERRORS, TRANSFERS, Kind, Mode, Shim
from tests.support.power_loss import Changes
from tests.support.volume_checks import intermediate_states, left_behind, problems
from tests.support.volume_operations import Operation, Pointers

CLEAN, PADDOCK_ERROR, OTHER_ERROR = 0, 10, 99
INJECTED = "."
"""What stands for a fault among the problems that it caused."""
_LIMIT_S = 60
_KILLS = frozenset({Mode.KILL_BEFORE, Mode.KILL_DURING, Mode.KILL_AFTER})
_CLEANS_UP = frozenset({Kind.UNLINK, Kind.RMDIR, Kind.LIST, Kind.OPEN})
"""The calls that remove a staging name: when one of them fails, it may stay."""


@dataclass(frozen=True)
class Fault:
    """A fault at the call `target` among the `counted` ones."""

    mode: Mode
    target: int
    kind: Kind
    error: int | None = None
    is_late: bool = False
    """Nothing is left to do, but for an fsync."""

    def __str__(self) -> str:
        name = f", {errno.errorcode[self.error]}" if self.error else ""
        return f"{self.mode.name.lower()} at {self.target} ({self.kind.name.lower()}{name})"

    @property
    def counted(self) -> frozenset[Kind]:
        return CHANGES if self.mode in _KILLS else ALL


@dataclass(frozen=True)
class _Ended:
    """How a child ended: CLEAN, PADDOCK_ERROR, OTHER_ERROR or the negative signal number, and what it printed."""

    status: int
    output: str


def kills(calls: Sequence[Kind]) -> Iterator[Fault]:
    """SIGKILL before, in and after each change."""
    changes = [kind for kind in calls if kind in CHANGES]
    last = max((target for target, kind in enumerate(changes, 1) if kind is not Kind.SYNC), default=0)
    for target, kind in enumerate(changes, 1):
        yield Fault(Mode.KILL_BEFORE, target, kind, is_late=target > last)
        if kind is Kind.WRITE:
            yield Fault(Mode.KILL_DURING, target, kind)
        yield Fault(Mode.KILL_AFTER, target, kind, is_late=target >= last)


def errors(calls: Sequence[Kind]) -> Iterator[Fault]:
    """Each call fails with each errno that it may fail with, once and then from there on; and each read and write
    transfers half of its bytes."""
    for target, kind in enumerate(calls, 1):
        for error, kinds in ERRORS.items():
            if kind in kinds:
                yield Fault(Mode.FAIL, target, kind, error)
                yield Fault(Mode.FAIL_FROM, target, kind, error)
        if kind in TRANSFERS:
            yield Fault(Mode.SHORT, target, kind)


FAULTS: dict[str, Callable[[Sequence[Kind]], Iterator[Fault]]] = {"kill": kills, "error": errors}


class Injector:
    def __init__(self, base: Path, shim: Shim) -> None:
        self.base = base
        self.root = base / "models"
        self._shim = shim
        self._template = base.with_name("template")
        self._stderr = base.with_name("stderr")

    def inject(self, mode: str, operation: Operation, *, stride: int, only: str = "") -> Iterator[str]:
        """Inject each `stride`-th fault whose name has `only`, or check as many states after a power loss. Yields each
        problem, and INJECTED for each fault."""
        made = self._make_template(operation)
        old = Pointers.of(self.root) if operation.moves else None
        whole = self._run(operation, Mode.COUNT, self.base if mode == "kill" else self.root)
        calls = self._shim.calls
        new = Pointers.of(self.root) if operation.moves else None
        if made.status or whole.status or not operation.after(Volume(self.root)):
            yield f"{operation.name}: does not work without a fault: {made.output}{whole.output}"
            return
        if mode == "power":
            results = self._power_losses(operation, old, new, states=stride)
        else:
            faults = [fault for fault in FAULTS[mode](calls) if only in str(fault)]
            results = self._faults(operation, old, new, faults[crc32(operation.name.encode()) % stride :: stride])
        yield from (result if result == INJECTED else f"{operation.name}, {result}" for result in results)

    def _faults(
        self, operation: Operation, old: Pointers | None, new: Pointers | None, faults: Sequence[Fault]
    ) -> Iterator[str]:
        for planned in faults:
            fault = planned
            self._copy_template()
            sent = operation.sent()
            ended = self._run(operation, fault.mode, self.base if fault.mode in _KILLS else self.root, fault)
            if not self._shim.injected:
                continue
            if fault.mode not in _KILLS:  # several threads make their calls in another order each time
                fault = replace(fault, kind=self._shim.calls[fault.target - 1])
            if fault.mode not in _KILLS:
                yield from (f"{fault}: {problem}" for problem in self._problems_of_error(fault, ended))
            is_complete = ended.status == CLEAN or fault.is_late
            yield from (f"{fault}: {problem}" for problem in self._check(operation, old, new, is_complete=is_complete))
            sent = operation.sent() - sent
            is_failed_fsync = fault.kind is Kind.SYNC and fault.mode not in _KILLS  # its bytes are fetched again
            if sent > operation.most_sent_bytes and not is_failed_fsync:
                yield f"{fault}: {sent} bytes were sent in all, {operation.most_sent_bytes} at most were expected"
            yield INJECTED

    def _problems_of_error(self, fault: Fault, ended: _Ended) -> Iterator[str]:
        if ended.status not in {CLEAN, PADDOCK_ERROR}:
            yield f"ended with {ended.status}: {ended.output}"
        elif "Traceback" in ended.output or "Exception ignored" in ended.output:
            yield f"printed a traceback: {ended.output}"
        if fault.mode is Mode.FAIL and fault.kind not in _CLEANS_UP:
            yield from (f"{path} was left behind" for path in left_behind(self.root))

    def _power_losses(
        self, operation: Operation, old: Pointers | None, new: Pointers | None, *, states: int
    ) -> Iterator[str]:
        self._copy_template()
        self.root.mkdir(exist_ok=True)  # else the operation makes it
        self._shim.log.write_bytes(b"")
        changes = Changes.of(self.root)
        self._run(operation, Mode.LOG, self.root)
        changes.read(self._shim.log.read_bytes())
        if changes.everything().content() != Changes.of(self.root).everything().content():
            yield "its log does not lead to its tree"
        for number in range(states):
            at_end = number % 5 == 0
            shutil.rmtree(self.root)
            self.root.mkdir()
            rng = random.Random(f"{operation.name} {number}")
            changes.after_power_loss(rng, at_end=at_end).write(self.root)
            where = f"power loss {number}"
            if at_end and operation.durable and not operation.after(Volume(self.root)):
                yield f"{where}: the operation had ended, and is undone"
            yield from (f"{where}: {problem}" for problem in self._check(operation, old, new))
            yield INJECTED

    def _check(
        self, operation: Operation, old: Pointers | None, new: Pointers | None, *, is_complete: bool = False
    ) -> Iterator[str]:
        """Check the volume after a fault, repeat the operation, and check it again. `is_complete`: it had ended."""
        if self.root.exists():
            for problem in problems(self.root):
                if not any(name in problem for name in operation.damaged):
                    yield problem
            yield from operation.is_consistent(Volume(self.root))
        if old and new:
            yield from intermediate_states(Pointers.of(self.root), old, new)
        operation.wait(Volume(self.root))
        if is_complete and not operation.repeatable:
            ended = _Ended(CLEAN, "")
        else:
            ended = self._run(operation, Mode.OFF, self.root)
        if ended.status != CLEAN:
            yield f"repeated: ended with {ended.status}: {ended.output}"
        yield from (f"repeated: {problem}" for problem in problems(self.root))
        if not operation.after(Volume(self.root)):
            yield "repeating the operation did not complete it"
        if new and Pointers.of(self.root) != new:
            yield f"repeating the operation resulted in {Pointers.of(self.root)}"

    def _make_template(self, operation: Operation) -> _Ended:
        shutil.rmtree(self._template, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir()
        if not operation.makes_volume:
            Volume(self.root).prepare()
        made = self._in_child(lambda: operation.before(Volume(self.root)))
        copy_tree(self.base, self._template)
        return made

    def _copy_template(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        copy_tree(self._template, self.base)

    def _run(self, operation: Operation, mode: Mode, watched: Path, fault: Fault | None = None) -> _Ended:
        """Run an operation in a child, with a fault in a call below `watched`."""

        def work() -> None:
            self._shim.arm(
                mode,
                watched,
                group=os.getpid(),
                target=fault.target if fault else 0,
                counted=fault.counted if fault else ALL,
                error=fault.error if fault else None,
            )
            operation.run(Volume(self.root))

        return self._in_child(work)

    def _in_child(self, work: Callable[[], object]) -> _Ended:
        child = os.fork()
        if child == 0:
            status = OTHER_ERROR
            try:
                os.setpgid(0, 0)
                signal.alarm(_LIMIT_S)
                os.dup2(os.open(self._stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                work()
                status = CLEAN
            except PaddockError as error:
                status = PADDOCK_ERROR if error.message else OTHER_ERROR
                print(repr(error), file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                self._shim.disarm()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self._shim.disarm()
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        return _Ended(status, self._stderr.read_text(errors="replace"))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with its links, modes and times; the names of one file stay names of one file."""
    copied: dict[int, str] = {}

    def copy(path: str, into: str) -> str:
        inode = os.lstat(path).st_ino
        if inode in copied:
            os.link(copied[inode], into)
        else:
            shutil.copy2(path, into, follow_symlinks=False)
            copied[inode] = into
        return into

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
