"""Kill processes that work on a volume at random moments, run four at once, and check the volume afterwards.

    python -m tests.support.volume_faults kill|race|undo ROOT COUNT

`kill` kills a process at a random moment, COUNT times; `race` runs four processes on one model, COUNT times; in `undo`
two processes roll back while two others remove. The program prints one line of totals, and exits with status 1 if any
check failed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from paddock.errors import BlobMissing, NotOnVolume
from paddock.store.volume import Volume
from tests.support.stores import MODEL
from tests.support.volume_checks import problems
from tests.support.volume_operations import A4, A8, B8, put


def _empty(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    Volume(root).prepare()


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
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        for child in children:
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
                yield f"round {number}: a process failed"
        yield from (f"round {number}: {problem}" for problem in problems(root))
        yield "."


def main() -> None:
    mode, root, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, failures = 0, []
    modes = {"kill": kill, "race": race, "undo": undo}
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
