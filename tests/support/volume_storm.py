"""Let many processes pull, verify, evict, promote, roll back and serve variants of one model at once.

    python -m tests.support.volume_storm ROOT PROCESSES SECONDS COMMIT:VARIANT...

The processes are forked from one, and choose what to do at random; each seed is the number of the process. A process
may lose a race: then what it wanted is gone or in use, which is an error of Paddock that says so. Anything else is a
problem: another error, a snapshot that is served and loses its bytes, a promoted snapshot that is not whole, and a
volume that is not consistent in the end, or on which the next pull fails. The program prints one line of JSON: how
often each thing was done, and the problems.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddock.errors import BlobMissing, InUse, NotOnVolume, PaddockError
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.verify import verify
from paddock.model.reference import Reference, SnapshotId
from paddock.store.volume import Volume
from tests.support.aged import age
from tests.support.prepared_transfer import Prepared, clients_of, prepare, transfer
from tests.support.stores import MODEL
from tests.support.volume_checks import WRONG_BYTES, problems

LOST_RACE = (BlobMissing, InUse, NotOnVolume)
KEEP_BYTES = 100 * 1024
"""The budget of an eviction: some half of all variants."""


class Worker:
    def __init__(self, root: Path, models: Sequence[Prepared], seed: int) -> None:
        self._volume = Volume(root)
        self._clients = clients_of(self._volume, remote=False)
        self._models = models
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []

    def run(self, until: float) -> None:
        works = (self.pull, self.pull, self.verify, self.evict, self.collect, self.promote, self.roll_back, self.serve)
        while time.monotonic() < until and not self.problems:
            work = self._random.choice(works)
            try:
                work()
                self.done[work.__name__] += 1
            except LOST_RACE as error:
                self.done[type(error).__name__] += 1
            except PaddockError as error:
                self.problems.append(f"{work.__name__}: {error!r}")
            except Exception:
                self.problems.append(f"{work.__name__}: {traceback.format_exc()}")

    def pull(self) -> None:
        transfer(self._volume, self._random.choice(self._models))

    def verify(self) -> None:
        verify(self._clients, self._volume.snapshots(), repair_damage=True)

    def evict(self) -> None:
        with suppress(FileNotFoundError):  # another process removed one
            age(self._volume)  # else nothing goes that was published in the last hour
        self.done["evicted"] += len(evict(self._clients, keep_bytes=KEEP_BYTES).removed)

    def collect(self) -> None:
        self._volume.collect(older_than_s=self._random.choice((0, 1)))

    def promote(self) -> None:
        promote_snapshot(self._clients, self._any(), "storm", default=self._random.random() < 0.5)

    def roll_back(self) -> None:
        variant = self._random.choice((None, *{id.variant for id in self._volume.ids(MODEL)}))
        roll_back(self._clients, Reference(MODEL, variant), "storm")

    def serve(self) -> None:
        """Hold a lease on what is promoted, or on any snapshot, and read it twice."""
        id = self._volume.promoted(MODEL).default_id or self._any()
        with self._volume.lease(id) as directory:
            manifest = self._volume.snapshot(id)
            for _ in range(2):
                if manifest is None:
                    self.problems.append(f"{id} was evicted while it was served")
                    return
                for file in manifest.files:
                    if hashlib.sha256((directory / file.path).read_bytes()).hexdigest() != file.sha256:
                        self.problems.append(f"{id} was served with {WRONG_BYTES}")
                time.sleep(self._random.uniform(0, 0.05))
                manifest = self._volume.snapshot(id)

    def _any(self) -> SnapshotId:
        ids = self._volume.ids(MODEL)
        if not ids:
            raise NotOnVolume("nothing is on the volume")
        return self._random.choice(ids)


def main() -> None:
    root, processes, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    models = [prepare(*argument.split(":")) for argument in sys.argv[4:]]
    Volume(root).prepare()
    gc.collect()
    gc.freeze()
    until, children = time.monotonic() + seconds, []
    for seed in range(processes):
        result = root.with_name(f"result-{seed}")
        child = os.fork()
        if child == 0:
            worker = Worker(root, models, seed)
            worker.run(until)
            result.write_text(json.dumps([worker.done, worker.problems]))
            os._exit(0)
        children.append((child, result))
    done: Counter[str] = Counter()
    found: list[str] = []
    for child, result in children:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            found.append(f"a process ended with {status}")
            continue
        counts, its_problems = json.loads(result.read_text())
        done.update(counts)
        found += its_problems
    found += problems(root)
    for model in models:
        transfer(Volume(root), model)
    found += [f"after the next pulls: {problem}" for problem in problems(root)]
    print(json.dumps({"done": done, "problems": found}))


if __name__ == "__main__":
    main()
