"""Faults on a volume: a program that breaks operations in every way it can, and looks at what is left.

    python -m tests.support.volume_faults crash|error|kill|race|undo ROOT COUNT

`crash` kills a process (SIGKILL) before each change to the file system that an operation makes, one after the other;
`error` lets each of them, and each file that is opened to be read, fail once with an errno; `kill` kills at a random
moment COUNT times; `race` lets four processes work on one model, COUNT times; in `undo` two processes roll back what
two others remove. After each fault the volume must be whole, what is promoted must be as before the operation or after
it, and the operation must succeed when it is done again, and be done once. It ends with one line, and status 1 when
anything was wrong.

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
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from paddock.errors import BlobMissing, NotOnVolume, PaddockError
from paddock.model.reference import SnapshotId
from paddock.store.history import Promoted
from paddock.store.volume import Volume
from tests.support import stores
from tests.support.stores import MODEL, A, B, id_of, manifest_of, publish

CHANGES = frozenset(
    {"open", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EACCES, errno.EDQUOT)
CLEAN, TOLD, WRONG = 0, 10, 99
Q8 = {"q8.gguf": b"eight" * 1000, "config.json": b"{}"}
Q4 = {"q4.gguf": b"four" * 1000, "deep/config.json": b"{}"}
NEXT = {"q8.gguf": b"next" * 1000, "config.json": b"{}"}
A8, B8, A4 = id_of(A), id_of(B), id_of(A, stores.Q4)
CONTENTS = {A8: Q8, B8: NEXT, A4: Q4}
ONCE = "once"
"""The id of the operation of each change of what is promoted."""


@dataclass(frozen=True)
class Operation:
    """`moves`: it changes what is promoted, under the id `ONCE`."""

    name: str
    before: Callable[[Volume], object]
    run: Callable[[Volume], object]
    after: Callable[[Volume], bool]
    moves: bool = False


@dataclass(frozen=True)
class Pointers:
    """What is promoted, as a later process reads it; the links themselves; and the reasons in the history."""

    promoted: Promoted
    links: dict[str, str]
    history: list[str]

    @classmethod
    def of(cls, root: Path) -> Pointers:
        volume = Volume(root)
        links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
        return cls(volume.promoted(MODEL), links, [line.reason for line in volume.history(MODEL)])


def put(volume: Volume, *ids: SnapshotId) -> None:
    for id in ids:
        publish(volume, id.revision, CONTENTS[id], volume.root, variant=id.variant)


def _published(volume: Volume) -> None:
    put(volume, A8)


def _promoted(volume: Volume) -> None:
    _published(volume)
    volume.promote(A8, reason="before")
    put(volume, B8, A4)


def _both_promoted(volume: Volume) -> None:
    """Q8_0 first, then Q4_K_M, which is the default."""
    _promoted(volume)
    volume.promote(A4, reason="before")


def _twice_promoted(volume: Volume) -> None:
    """Two revisions of Q8_0, then Q4_K_M, which is the default."""
    _promoted(volume)
    for id in (B8, A4):
        volume.promote(id, reason="before")


def _beside(volume: Volume) -> None:
    """Q8_0 is the default, and Q4_K_M is promoted beside it."""
    _promoted(volume)
    volume.promote(A4, reason="before", default=False)


def _staged(volume: Volume) -> None:
    (volume.partial / "staged").write_bytes(Q8["q8.gguf"])


def _add(volume: Volume) -> None:
    file = manifest_of(A, Q8).files[1]
    if not volume.has_blob(file.sha256, file.size):
        volume.add_blob(volume.partial / "staged", file.sha256, file.size)


def _remove(*ids: SnapshotId) -> Callable[[Volume], None]:
    def remove(volume: Volume) -> None:
        for id in ids:
            try:
                volume.remove(MODEL, variant=id.variant, revision=id.revision)
            except NotOnVolume:  # it went before the fault
                volume.collect(older_than_s=0)

    return remove


def _is_promoted(volume: Volume, *ids: SnapshotId) -> bool:
    """Whether these are what is promoted, the first one as the default."""
    promoted = volume.promoted(MODEL)
    return promoted.ids == sorted(ids) and promoted.default_id == ids[0]


OPERATIONS = (
    Operation("prepare", lambda _: None, lambda v: v.prepare(), lambda v: v.partial.is_dir()),
    Operation("add a blob", _staged, _add, lambda v: v.sizes()[1] == len(Q8["q8.gguf"])),
    Operation("publish", lambda _: None, _published, lambda v: v.snapshot(A8) == manifest_of(A, Q8)),
    Operation(
        "publish another variant",
        _published,
        lambda v: put(v, A4),
        lambda v: v.snapshot(A8) == manifest_of(A, Q8) and v.snapshot(A4) == manifest_of(A, Q4, variant=stores.Q4),
    ),
    Operation(
        "promote the first",
        _published,
        lambda v: v.promote(A8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A8),
        moves=True,
    ),
    Operation(
        "promote a new revision of the default",
        _beside,
        lambda v: v.promote(B8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "promote a second variant as the default",
        _promoted,
        lambda v: v.promote(A4, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A4, A8),
        moves=True,
    ),
    Operation(
        "promote a second variant beside the default",
        _promoted,
        lambda v: v.promote(A4, reason="now", default=False, operation=ONCE),
        lambda v: _is_promoted(v, A8, A4),
        moves=True,
    ),
    Operation(
        "promote a new revision as the default",
        _both_promoted,
        lambda v: v.promote(B8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "roll the model back to another default",
        _twice_promoted,
        lambda v: v.rollback(MODEL, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "roll a variant back",
        _twice_promoted,
        lambda v: v.rollback(MODEL, A8.variant, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A4, A8),
        moves=True,
    ),
    Operation("pin", _published, lambda v: v.pins.add(A8), lambda v: v.pins.of(MODEL) == {A8}),
    Operation(
        "remove",
        _promoted,
        _remove(A8),
        lambda v: v.promoted(MODEL) == Promoted(MODEL) and v.ids(MODEL) == [A4, B8],
    ),
    Operation(
        "remove one of two variants",
        _both_promoted,
        _remove(A8),
        lambda v: _is_promoted(v, A4) and v.ids(MODEL) == [A4, B8],
    ),
    Operation(
        "remove the default",
        _both_promoted,
        _remove(A4),
        lambda v: v.promoted(MODEL) == Promoted(MODEL, None, {A8.variant: A}) and v.ids(MODEL) == [A8, B8],
    ),
    Operation(
        "report",
        _published,
        lambda v: v.write_report(A8, "a.md", "text"),
        lambda v: v.read_report(A8, "a.md") == "text",
    ),
)


def problems(root: Path) -> Iterator[str]:
    """What must never be seen, whatever died."""
    volume = Volume(root)
    for path in (root / ".paddock" / "blobs" / "sha256").glob("*/*"):
        if len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"the blob {path.name} has other bytes"
    for id in volume.ids(MODEL):
        place = volume.snapshot_path(id)
        try:
            manifest = volume.snapshot(id)
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
    yield from (f"{id} is promoted, and not there" for id in promoted.ids if volume.snapshot(id) is None)
    for path in root.iterdir():
        if path.is_symlink() and not (path / "manifest.json").is_file():
            yield f"{path} shows {path.readlink()}, which is not there"
        elif path.name != ".paddock" and not path.is_symlink():
            yield f"{path} lies in the root"


def half_done(seen: Pointers, old: Pointers, new: Pointers) -> Iterator[str]:
    """What must never be seen of a change of what is promoted: a third state, a link that moved before the history was
    written, and a default that moved before its variant."""
    if (seen.promoted, seen.history) not in [(old.promoted, old.history), (new.promoted, new.history)]:
        yield f"a third state: {seen.promoted} after {seen.history}"
    moved = {name for name in old.links | new.links if old.links.get(name) != new.links.get(name)}
    done = {name for name in moved if seen.links.get(name) == new.links.get(name)}
    for name in (seen.links | old.links | new.links).keys() - done:
        if seen.links.get(name) != old.links.get(name):
            yield f"{name} shows {seen.links.get(name)}"
    if done and seen.history != new.history:
        yield f"{sorted(done)} moved before the history was written"
    if MODEL.slug in done and done != moved:
        yield f"{MODEL.slug} moved before {sorted(moved - done)}"


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


def on_change(root: Path, strike: Callable[[str], None], *, reads: bool = False) -> None:
    """Arm this process: `strike` comes right before each change to the file system, and, with `reads`, before each file
    that is opened to be read."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            is_met = str(path).startswith(str(root)) and (reads or bool(flags & WRITES))
        else:
            is_met = event in CHANGES or event == "ctypes.dlopen"
        if is_met:
            strike(event)

    sys.addaudithook(hook)


def at_change(number: int, root: Path, strike: Callable[[str], None], *, reads: bool = False) -> None:
    """Arm this process: `strike` comes right before that change (from 1)."""
    seen = count(1)
    on_change(root, lambda event: strike(event) if next(seen) == number else None, reads=reads)


def fresh(root: Path, operation: Operation) -> Volume:
    shutil.rmtree(root, ignore_errors=True)
    if operation.name != "prepare":
        Volume(root).prepare()
    operation.before(Volume(root))
    return Volume(root)


def _empty(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    Volume(root).prepare()


def every_change(root: Path, strike: Callable[[int, str], None], *, reads: bool) -> Iterator[str]:
    """Strike at each change of each operation; what went wrong comes out, and a `.` for each fault."""
    for operation in OPERATIONS:
        whole = fresh(root, operation)
        old = Pointers.of(root) if operation.moves else None
        operation.run(whole)
        new = Pointers.of(root) if operation.moves else None
        for number in range(1, 1000):
            volume = fresh(root, operation)

            def work(volume: Volume = volume, number: int = number, operation: Operation = operation) -> None:
                at_change(number, root, lambda event: strike(number, event), reads=reads)
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
            if old and new:
                seen = Pointers.of(root)
                yield from (f"{where}: {problem}" for problem in half_done(seen, old, new))
            operation.run(volume)
            yield from (f"{where}, again: {problem}" for problem in problems(root))
            if not operation.after(volume):
                yield f"{where}: doing it again did not do it"
            if new and Pointers.of(root) != new:
                yield f"{where}: doing it again came to {Pointers.of(root)}"
            yield "."


def crash(root: Path, _: int) -> Iterator[str]:
    yield from every_change(root, lambda _number, _event: os.kill(os.getpid(), signal.SIGKILL), reads=False)


def error(root: Path, _: int) -> Iterator[str]:
    def fail(number: int, event: str) -> None:
        if root.exists():
            os.close(os.open(root / ".struck", os.O_CREAT))
        if event != "ctypes.dlopen":
            code = ERRORS[number % len(ERRORS)]
            raise OSError(code, os.strerror(code), str(root))

    yield from every_change(root, fail, reads=True)


def _churn(root: Path, seed: int, *, turns: int) -> None:
    chance = random.Random(seed)
    volume = Volume(root)
    for _ in range(turns):
        id = chance.choice((A8, B8, A4))
        default = chance.random() < 0.5
        work = chance.choice(
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
        except (BlobMissing, NotOnVolume):  # another took it: the next run fetches it again
            continue


def _undo(root: Path, seed: int, *, turns: int) -> None:
    """Promote, roll back and remove, and nothing else for long: a model goes as it is rolled back."""
    chance = random.Random(seed)
    volume = Volume(root)
    for _ in range(turns):
        id = chance.choice((A8, B8, A4))
        with suppress(BlobMissing, NotOnVolume):  # another removed it
            put(volume, id)
            volume.promote(id, reason="undo")
        with suppress(NotOnVolume):
            if seed % 2:
                volume.rollback(MODEL, chance.choice((None, A8.variant, A4.variant)), reason="undo")
            else:
                volume.remove(MODEL)


def kill(root: Path, kills: int) -> Iterator[str]:
    chance = random.Random(kills)
    for number in range(kills):
        if number % 50 == 0:  # a history of thousands of lines would be most of the time
            _empty(root)
        child = os.fork()
        if child == 0:
            _churn(root, number, turns=10**9)
        time.sleep(chance.uniform(0.001, 0.06))  # the moment is the experiment
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        yield from (f"kill {number}: {problem}" for problem in problems(root))
        put(Volume(root), A8)
        Volume(root).promote(A8, reason="after a kill")
        yield from (f"kill {number}, and on: {problem}" for problem in problems(root))
        yield "."


def race(root: Path, rounds: int) -> Iterator[str]:
    yield from _at_once(root, rounds, lambda seed: _churn(root, seed, turns=15))


def undo(root: Path, rounds: int) -> Iterator[str]:
    yield from _at_once(root, rounds, lambda seed: _undo(root, seed, turns=15))


def _at_once(root: Path, rounds: int, work: Callable[[int], None]) -> Iterator[str]:
    """Four processes, each with a seed of its own."""
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
                    os._exit(WRONG)
            children.append(child)
        for child in children:
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != CLEAN:
                yield f"round {number}: a process failed"
        yield from (f"round {number}: {problem}" for problem in problems(root))
        yield "."


def main() -> None:
    mode, root, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, wrong = 0, []
    modes = {"crash": crash, "error": error, "kill": kill, "race": race, "undo": undo}
    for outcome in modes[mode](root, times):
        if outcome == ".":
            injected += 1
        else:
            wrong.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
