"""Faults on a volume: a program that breaks operations in every way it can, and looks at what is left.

    python -m tests.support.volume_faults crash|error|kill|race ROOT COUNT

`crash` kills a process (SIGKILL) before each change to the file system that an operation makes, one after the other;
`error` lets each of them fail once with an errno; `kill` kills at a random moment COUNT times; `race` lets four
processes work on one model, COUNT times. After each fault the volume must be whole, and the operation must succeed when
it is done again. It ends with one line, and status 1 when anything was wrong.

The faults come from an audit hook (`sys.addaudithook`) in a forked child: the code under test is the real one. What has
no audit event (write, fsync) is not reached that way.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.errors import BlobMissing, NotOnVolume, PaddockError
from paddock.store.volume import Volume
from tests.support.stores import MODEL, A, B, manifest_of, publish

CHANGES = frozenset(
    {"open", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
)
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EACCES, errno.EDQUOT)
CLEAN, TOLD, WRONG = 0, 10, 99
Q8 = {"q8.gguf": b"eight" * 1000, "config.json": b"{}"}
Q4 = {"q4.gguf": b"four" * 1000, "deep/config.json": b"{}"}
NEXT = {"q8.gguf": b"next" * 1000, "config.json": b"{}"}


@dataclass(frozen=True)
class Operation:
    name: str
    before: Callable[[Volume], object]
    run: Callable[[Volume], object]
    after: Callable[[Volume], bool]


def _published(volume: Volume) -> None:
    publish(volume, A, Q8, volume.root)


def _promoted(volume: Volume) -> None:
    _published(volume)
    volume.promote(MODEL, A, reason="before")
    publish(volume, B, NEXT, volume.root)


def _staged(volume: Volume) -> None:
    (volume.partial / "staged").write_bytes(Q8["q8.gguf"])


def _add(volume: Volume) -> None:
    file = manifest_of(A, Q8).files[1]
    if not volume.has_blob(file.sha256, file.size):
        volume.add_blob(volume.partial / "staged", file.sha256, file.size)


def _remove(volume: Volume) -> None:
    try:
        volume.remove(MODEL, A)
    except NotOnVolume:  # it went before the fault
        volume.collect(older_than_s=0)


OPERATIONS = (
    Operation("prepare", lambda _: None, lambda v: v.prepare(), lambda v: v.partial.is_dir()),
    Operation("add a blob", _staged, _add, lambda v: v.sizes()[1] == len(Q8["q8.gguf"])),
    Operation("publish", lambda _: None, _published, lambda v: v.snapshot(MODEL, A) == manifest_of(A, Q8)),
    Operation(
        "replace", _published, lambda v: publish(v, A, Q4, v.root), lambda v: v.snapshot(MODEL, A) == manifest_of(A, Q4)
    ),
    Operation(
        "promote",
        _promoted,
        lambda v: v.promote(MODEL, B, reason="now"),
        lambda v: v.promoted(MODEL) == v.history(MODEL)[-1].revision == B,
    ),
    Operation("pin", _published, lambda v: v.pin(MODEL, A), lambda v: v.pins(MODEL) == {A}),
    Operation("remove", _promoted, _remove, lambda v: v.promoted(MODEL) is None and v.snapshot(MODEL, A) is None),
    Operation(
        "report",
        _published,
        lambda v: v.write_report(MODEL, A, "a.md", "text"),
        lambda v: v.read_report(MODEL, A, "a.md") == "text",
    ),
)


def problems(root: Path) -> Iterator[str]:
    """What must never be seen, whatever died."""
    volume = Volume(root)
    for path in (root / ".paddock" / "blobs" / "sha256").glob("*/*"):
        if len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"the blob {path.name} has other bytes"
    for place in (root / ".paddock" / "snapshots" / MODEL.slug).glob("[0-9a-f]*"):
        try:
            manifest = volume.snapshot(MODEL, A if place.name == A else B)
        except PaddockError as error:
            yield str(error)
            continue
        if manifest is None:
            yield f"{place} is visible without a manifest"
            continue
        for file in manifest.files:
            path = place / file.path
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
                yield f"{path} is not what the manifest says"
            if not volume.has_blob(file.sha256, file.size):
                yield f"{path} has no blob"
    promoted = volume.promoted(MODEL)
    if promoted is not None and volume.snapshot(MODEL, promoted) is None:
        yield f"the pointer shows {promoted}, which is not there"
    yield from (f"{path} lies in the root" for path in root.iterdir() if path.name not in {".paddock", MODEL.slug})


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process. CLEAN, TOLD (one of our errors), WRONG (any other), or minus the signal."""
    child = os.fork()
    if child == 0:
        status = WRONG
        try:
            work()
            status = CLEAN
        except PaddockError:
            status = TOLD
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_change(number: int, root: Path, strike: Callable[[str], None]) -> None:
    """Arm this process: `strike` comes right before that change (from 1) to the file system."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "ctypes.dlopen" or (
            event in CHANGES and (event != "open" or str(arguments[0]).startswith(str(root)))
        ):
            seen += 1
            if seen == number:
                strike(event)

    sys.addaudithook(hook)


def fresh(root: Path, operation: Operation) -> Volume:
    shutil.rmtree(root, ignore_errors=True)
    volume = Volume(root)
    if operation.name != "prepare":
        volume.prepare()
    operation.before(volume)
    return volume


def every_change(root: Path, strike: Callable[[int, str], None]) -> Iterator[str]:
    """Strike at each change of each operation; what went wrong comes out, and a `.` for each fault."""
    for operation in OPERATIONS:
        for number in range(1, 1000):
            volume = fresh(root, operation)

            def work(volume: Volume = volume, number: int = number, operation: Operation = operation) -> None:
                at_change(number, root, lambda event: strike(number, event))
                operation.run(volume)

            status = in_child(work)
            if status == CLEAN and number > 1 and not (root / ".struck").exists():
                break
            (root / ".struck").unlink(missing_ok=True)
            where = f"{operation.name}, change {number}"
            if status == WRONG:
                yield f"{where}: a bare exception"
            if root.exists():
                yield from (f"{where}: {problem}" for problem in problems(root))
            operation.run(volume)
            if not operation.after(volume):
                yield f"{where}: doing it again did not do it"
            yield "."


def crash(root: Path, _: int) -> Iterator[str]:
    yield from every_change(root, lambda _number, _event: os.kill(os.getpid(), signal.SIGKILL))


def error(root: Path, _: int) -> Iterator[str]:
    def fail(number: int, event: str) -> None:
        if root.exists():
            os.close(os.open(root / ".struck", os.O_CREAT))
        if event != "ctypes.dlopen":
            code = ERRORS[number % len(ERRORS)]
            raise OSError(code, os.strerror(code), str(root))

    yield from every_change(root, fail)


def _churn(root: Path, seed: int, *, turns: int) -> None:
    chance = random.Random(seed)
    volume = Volume(root)
    for _ in range(turns):
        revision = chance.choice((A, B))
        contents = chance.choice((Q8, Q4, NEXT))
        work = chance.choice(
            (
                lambda r=revision, c=contents: publish(volume, r, c, root),
                lambda r=revision, c=contents: publish(volume, r, c, root),
                lambda r=revision: volume.promote(MODEL, r, reason="churn"),
                lambda: volume.rollback(MODEL, reason="churn"),
                lambda r=revision: volume.remove(MODEL, r),
                lambda: volume.collect(older_than_s=0),
            )
        )
        try:
            work()
        except (BlobMissing, NotOnVolume):  # another took it: the next run fetches it again
            continue


def kill(root: Path, count: int) -> Iterator[str]:
    chance = random.Random(count)
    Volume(root).prepare()
    for number in range(count):
        child = os.fork()
        if child == 0:
            _churn(root, number, turns=10**9)
        time.sleep(chance.uniform(0.001, 0.06))  # the moment is the experiment
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        yield from (f"kill {number}: {problem}" for problem in problems(root))
        publish(Volume(root), A, Q8, root)
        Volume(root).promote(MODEL, A, reason="after a kill")
        yield "."


def race(root: Path, count: int) -> Iterator[str]:
    Volume(root).prepare()
    for number in range(count):
        children = []
        for worker in range(4):
            child = os.fork()
            if child == 0:
                try:
                    _churn(root, 100 * number + worker, turns=15)
                    os._exit(CLEAN)
                except BaseException:
                    traceback.print_exc()
                    os._exit(WRONG)
            children.append(child)
        for child in children:
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != CLEAN:
                yield f"round {number}: a process failed"
        yield from (f"round {number}: {problem}" for problem in problems(root))
        yield "."


def main() -> None:
    mode, root, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, wrong = 0, []
    for outcome in {"crash": crash, "error": error, "kill": kill, "race": race}[mode](root, count):
        if outcome == ".":
            injected += 1
        else:
            wrong.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
