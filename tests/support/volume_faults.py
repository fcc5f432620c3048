"""Inject faults into operations on a volume, and check the volume afterwards.

    python -m tests.support.volume_faults crash|error ROOT STRIDE
    python -m tests.support.volume_faults kill|race|undo ROOT COUNT

`crash` kills the process (SIGKILL) before each change that an operation makes to the file system; `error` makes each
change, and each opening of a file for reading, fail once with an errno; with a STRIDE of 3, every third. `kill` kills
at a random moment, COUNT times; `race` runs four processes on one model, COUNT times; in `undo` two processes roll back
while two others remove. After each fault the volume must be consistent, the promoted snapshots must be those of before
or after the operation, and the operation must succeed when it is repeated, and take effect once. The program prints one
line of totals, and exits with status 1 if any check failed.

The faults are injected by an audit hook (`sys.addaudithook`) in a forked child, so that the code under test is
unchanged. Calls without an audit event (write, fsync) cannot be made to fail that way.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from paddock.errors import BlobMissing, NotOnVolume, PaddockError
from paddock.store.volume import Volume
from tests.support.stores import MODEL
from tests.support.volume_operations import A4, A8, B8, OPERATIONS, Operation, Pointers, put

CHANGES = frozenset(
    {"open", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EACCES, errno.EDQUOT)
CLEAN, PADDOCK_ERROR, OTHER_ERROR = 0, 10, 99


def problems(root: Path) -> Iterator[str]:
    """Inconsistencies of the volume, of which there must be none after any fault."""
    volume = Volume(root)
    for path in (root / ".paddock" / "blobs" / "sha256").glob("*/*"):
        if len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"the blob {path.name} has other bytes"
    for id in volume.ids(MODEL):
        directory = volume.snapshot_path(id)
        try:
            manifest = volume.snapshot(id)
        except PaddockError as error:
            yield str(error)
            continue
        if manifest is None:
            yield f"{directory} is visible without a manifest"
            continue
        for file in manifest.files:
            path = directory / file.path
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
                yield f"{path} differs from the manifest"
            if not volume.has_blob(file.sha256, file.size):
                yield f"{path} has no blob"
    promoted = volume.promoted(MODEL)
    yield from (f"{id} is promoted, but missing" for id in promoted.ids if volume.snapshot(id) is None)
    for path in root.iterdir():
        if path.is_symlink() and not (path / "manifest.json").is_file():
            yield f"{path} points to {path.readlink()}, which is missing"
        elif path.name != ".paddock" and not path.is_symlink():
            yield f"{path} should not be in the root"


def intermediate_states(current: Pointers, old: Pointers, new: Pointers) -> Iterator[str]:
    """Intermediate states of a change of the promoted snapshots, of which there must be none.

    These are any state but the old and the new one, a link that moved before the history was written, and a default
    that moved before its variant.
    """
    if (current.promoted, current.history) not in [(old.promoted, old.history), (new.promoted, new.history)]:
        yield f"an intermediate state: {current.promoted} after {current.history}"
    moved = {name for name in old.links | new.links if old.links.get(name) != new.links.get(name)}
    done = {name for name in moved if current.links.get(name) == new.links.get(name)}
    for name in (current.links | old.links | new.links).keys() - done:
        if current.links.get(name) != old.links.get(name):
            yield f"{name} points to {current.links.get(name)}"
    if done and current.history != new.history:
        yield f"{sorted(done)} moved before the history was written"
    if MODEL.slug in done and done != moved:
        yield f"{MODEL.slug} moved before {sorted(moved - done)}"


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process. Resteps CLEAN, PADDOCK_ERROR, OTHER_ERROR, or the negative signal number."""
    child = os.fork()
    if child == 0:
        status = OTHER_ERROR
        try:
            work()
            status = CLEAN
        except PaddockError:
            status = PADDOCK_ERROR
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def call_on_change(root: Path, inject: Callable[[str], None], *, reads: bool = False) -> None:
    """Call `inject` before each change to the file system in this process and, with `reads`, before each opening of a
    file for reading."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            matches = str(path).startswith(str(root)) and (reads or bool(flags & WRITES))
        else:
            matches = event in CHANGES or event == "ctypes.dlopen"
        if matches:
            inject(event)

    sys.addaudithook(hook)


def call_at_change(number: int, root: Path, inject: Callable[[str], None], *, reads: bool = False) -> None:
    """Call `inject` before the given change to the file system (counted from 1)."""
    changes = count(1)
    call_on_change(root, lambda event: inject(event) if next(changes) == number else None, reads=reads)


def fresh(root: Path, operation: Operation) -> Volume:
    shutil.rmtree(root, ignore_errors=True)
    if operation.name != "prepare":
        Volume(root).prepare()
    operation.before(Volume(root))
    return Volume(root)


def _empty(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    Volume(root).prepare()


def inject_at_every_change(
    root: Path, inject: Callable[[int, str], None], *, stride: int, reads: bool
) -> Iterator[str]:
    """Call `inject` at each `stride`-th change of each operation, starting at another one for each operation.

    Yields each problem, and a `.` for each fault.
    """
    for index, operation in enumerate(OPERATIONS):
        complete = fresh(root, operation)
        old = Pointers.of(root) if operation.moves else None
        operation.run(complete)
        new = Pointers.of(root) if operation.moves else None
        for number in range(1 + index % stride, 1000, stride):
            volume = fresh(root, operation)

            def work(volume: Volume = volume, number: int = number, operation: Operation = operation) -> None:
                call_at_change(number, root, lambda event: inject(number, event), reads=reads)
                operation.run(volume)

            status = in_child(work)
            if status == CLEAN and number > 1 and not (root / ".injected").exists():
                break
            (root / ".injected").unlink(missing_ok=True)
            where = f"{operation.name}, change {number}"
            if status == OTHER_ERROR:
                yield f"{where}: an exception that is not a PaddockError"
            if root.exists():
                yield from (f"{where}: {problem}" for problem in problems(root))
            if old and new:
                current = Pointers.of(root)
                yield from (f"{where}: {problem}" for problem in intermediate_states(current, old, new))
            operation.run(volume)
            yield from (f"{where}, repeated: {problem}" for problem in problems(root))
            if not operation.after(volume):
                yield f"{where}: repeating the operation did not complete it"
            if new and Pointers.of(root) != new:
                yield f"{where}: repeating the operation resulted in {Pointers.of(root)}"
            yield "."


def crash(root: Path, stride: int) -> Iterator[str]:
    def die(_number: int, _event: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    yield from inject_at_every_change(root, die, stride=stride, reads=False)


def error(root: Path, stride: int) -> Iterator[str]:
    def fail(number: int, event: str) -> None:
        if root.exists():
            os.close(os.open(root / ".injected", os.O_CREAT))
        if event != "ctypes.dlopen":
            code = ERRORS[number % len(ERRORS)]
            raise OSError(code, os.strerror(code), str(root))

    yield from inject_at_every_change(root, fail, stride=stride, reads=True)


def _random_operations(root: Path, seed: int, *, steps: int) -> None:
    rng = random.Random(seed)
    volume = Volume(root)
    for _ in range(steps):
        id = rng.choice((A8, B8, A4))
        default = rng.random() < 0.5
        work = rng.choice(
            (
                lambda i=id: put(volume, i),
                lambda i=id: put(volume, i),
                lambda i=id, d=default: volume.promote(i, reason="churn", default=d),
                lambda: volume.rollback(MODEL, reason="churn"),
                lambda i=id: volume.rollback(MODEL, i.variant, reason="churn"),
                lambda i=id: volume.remove(MODEL, variant=i.variant, revision=i.revision),
                lambda: volume.collect(older_than_s=0),
            )
        )
        try:
            work()
        except (BlobMissing, NotOnVolume):  # another process removed it: the next step puts it again
            continue


def _undo(root: Path, seed: int, *, steps: int) -> None:
    """Promote, then roll back or remove, so that a model is removed while it is rolled back."""
    rng = random.Random(seed)
    volume = Volume(root)
    for _ in range(steps):
        id = rng.choice((A8, B8, A4))
        with suppress(BlobMissing, NotOnVolume):  # another process removed it
            put(volume, id)
            volume.promote(id, reason="undo")
        with suppress(NotOnVolume):
            if seed % 2:
                volume.rollback(MODEL, rng.choice((None, A8.variant, A4.variant)), reason="undo")
            else:
                volume.remove(MODEL)


def kill(root: Path, kills: int) -> Iterator[str]:
    rng = random.Random(kills)
    for number in range(kills):
        if number % 50 == 0:  # reading a history of thousands of lines would take most of the time
            _empty(root)
        child = os.fork()
        if child == 0:
            _random_operations(root, number, steps=10**9)
        time.sleep(rng.uniform(0.001, 0.06))  # kill at a random moment
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        yield from (f"kill {number}: {problem}" for problem in problems(root))
        put(Volume(root), A8)
        Volume(root).promote(A8, reason="after a kill")
        yield from (f"kill {number}, after a promotion: {problem}" for problem in problems(root))
        yield "."


def race(root: Path, rounds: int) -> Iterator[str]:
    yield from _in_parallel(root, rounds, lambda seed: _random_operations(root, seed, steps=15))


def undo(root: Path, rounds: int) -> Iterator[str]:
    yield from _in_parallel(root, rounds, lambda seed: _undo(root, seed, steps=15))


def _in_parallel(root: Path, rounds: int, work: Callable[[int], None]) -> Iterator[str]:
    """Run `work` in four processes, each with its own seed."""
    for number in range(rounds):
        _empty(root)
        children = []
        for worker in range(4):
            child = os.fork()
            if child == 0:
                try:
                    work(100 * number + worker)
                    os._exit(CLEAN)
                except BaseException:
                    traceback.print_exc()
                    os._exit(OTHER_ERROR)
            children.append(child)
        for child in children:
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != CLEAN:
                yield f"round {number}: a process failed"
        yield from (f"round {number}: {problem}" for problem in problems(root))
        yield "."


def main() -> None:
    mode, root, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, failures = 0, []
    modes = {"crash": crash, "error": error, "kill": kill, "race": race, "undo": undo}
    for outcome in modes[mode](root, times):
        if outcome == ".":
            injected += 1
        else:
            failures.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(failures)}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
