"""Evict from a volume with a small budget while other processes serve, pull, promote, roll back and pin.

    python -m tests.support.gc_load ROOT SECONDS SEED [COMMIT]...

ROOT is a new directory. It prints one line with what was done, and each thing that is wrong on a line of its own; then
the exit status is 1. With commits, one process pulls these revisions of a model from the Hub in the environment.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from paddock.errors import BlobMissing, InUse, NotOnVolume, PaddockError
from paddock.hub import Hub
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.eviction.plan import NO_BUDGET, WITHIN_BUDGET
from paddock.lifecycle.upkeep.evict import evict
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Reference, SnapshotId
from paddock.planning.targets import UNBOUNDED
from paddock.settings import Settings
from paddock.store.copying import push
from paddock.store.remote import ObjectStore
from paddock.store.volume import Volume
from tests.support.aged import age
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.stores import Q4, Q8, manifest_of

MODELS = [ModelName.parse(f"org/{name}") for name in ("first", "second")]
BUDGET_BYTES = 20_000
Role = Callable[[Clients, random.Random], Counter[str]]
"""Does one thing, and returns what was done; raises AssertionError where something is wrong."""


def contents_of(number: int, variant: str) -> dict[str, bytes]:
    """Files of some 4 kB: weights of its own, and a file that several revisions have."""
    return {"m.gguf": f"{number} {variant} ".encode() * 500, "config.json": b"%d" % (number % 3) * 400}


def check_whole(path: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        assert sha256((path / file.path).read_bytes()).hexdigest() == file.sha256, f"{file.path} of {manifest.id}"


def serve(clients: Clients, rng: random.Random) -> Counter[str]:
    """Hold a lease and read the files, as a server does."""
    stored = clients.volume.snapshots()
    if not stored:
        time.sleep(0.05)
        return Counter(["idle"])
    manifest = rng.choice(stored)
    try:
        with clients.volume.lease(manifest.id) as path:
            for _ in range(3):
                check_whole(path, manifest)
                time.sleep(rng.uniform(0, 0.05))
    except NotOnVolume:
        return Counter(["serve: gone before"])
    return Counter(["serve"])


def publish(clients: Clients, rng: random.Random) -> Counter[str]:
    """Publish a snapshot as a pull does, and promote it, or leave it and let it grow old."""
    number, variant = rng.randrange(12), rng.choice((Q8, Q4))
    contents = contents_of(number, variant)
    manifest = manifest_of(
        Revision(f"{number:040x}"), contents, model=rng.choice(MODELS), variant=variant, age_s=number
    )
    volume = clients.volume
    try:
        for content in contents.values():
            volume.renew_blob(volume.add_bytes(content))
        volume.publish(manifest)
    except BlobMissing:
        return Counter(["publish: again"])
    if rng.random() < 0.5:
        with suppress(NotOnVolume, BlobMissing):
            age(volume, manifest.id)
            if rng.random() < 0.5 and clients.remote is not None:
                push(volume, clients.remote, manifest)
        return Counter(["publish"])
    time.sleep(rng.uniform(0, 0.02))
    volume.promote(manifest.id, reason="load", default=rng.random() < 0.5)
    check_whole(volume.snapshot_path(manifest.id), manifest)
    age(volume, manifest.id)
    return Counter(["promote"])


def undo(clients: Clients, rng: random.Random) -> Counter[str]:
    """Roll back, pin or unpin."""
    model = rng.choice(MODELS)
    time.sleep(rng.uniform(0, 0.05))
    try:
        if rng.random() < 0.5:
            change = clients.volume.rollback(model, rng.choice((None, Q8, Q4)), reason="load")
            assert change.revision is not None
            assert clients.volume.snapshot(SnapshotId(model, change.revision, change.variant)) is not None, "gone"
            return Counter(["roll back"])
        for id in clients.volume.pins.of(model):
            clients.volume.pins.remove(id)
        ids = clients.volume.ids(model)
        if ids:
            clients.volume.pins.add(rng.choice(ids))
    except NotOnVolume:
        return Counter(["undo: nothing there"])
    return Counter(["pin"])


def collect(clients: Clients, rng: random.Random) -> Counter[str]:
    done = evict(clients, keep_bytes=BUDGET_BYTES)
    if done.over_bytes and not done.notes:  # else other processes stored files at that moment
        reasons = {row.reason for row in done.kept}
        assert not reasons & {WITHIN_BUDGET, NO_BUDGET}, f"over by {done.over_bytes}: {reasons}"
    time.sleep(rng.uniform(0, 0.02))
    return Counter({"evicted": len(done.removed), f"gc: {'over, and said' if done.over_bytes else 'budget kept'}": 1})


def fetch(clients: Clients, rng: random.Random) -> Counter[str]:
    real = connect()
    pulled = pull(real, Reference.parse(f"org/tiny-GGUF@{rng.choice(sys.argv[4:])}"), target=UNBOUNDED)
    check_whole(pulled.path, pulled.manifest)
    age(real.volume, pulled.manifest.id)
    return Counter(["pull"])


def run(role: Role, clients: Clients, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    rng, end = random.Random(seed), time.monotonic() + seconds
    done: Counter[str] = Counter()
    wrong: list[str] = []
    while time.monotonic() < end and not wrong:
        try:
            done.update(role(clients, rng))
        except InUse as error:
            wrong.append(f"{role.__name__}: {error}")
        except (AssertionError, PaddockError, OSError):
            wrong.append(f"{role.__name__}: {traceback.format_exc()}")
    return done, wrong


def problems(clients: Clients) -> Iterator[str]:
    """What is wrong with the volume at rest."""
    volume = clients.volume
    for manifest in volume.snapshots():
        try:
            check_whole(volume.snapshot_path(manifest.id), manifest)
        except (AssertionError, OSError) as error:
            yield f"{manifest.id} is torn: {error}"
        yield from (
            f"{manifest.id} lacks its blob {file.sha256}"
            for file in manifest.files
            if not volume.has_blob(file.sha256, file.size)
        )
    for model in {manifest.model for manifest in volume.snapshots()}:
        yield from (f"{id} is promoted and gone" for id in volume.promoted(model).ids if volume.snapshot(id) is None)
    yield from (f"{path} points at nothing" for path in volume.root.iterdir() if not path.exists())
    printed = [evict(clients, keep_bytes=BUDGET_BYTES, dry_run=True).to_json() for _ in range(2)]
    done = evict(clients, keep_bytes=BUDGET_BYTES).to_json()
    if not printed[0] == printed[1] == {**done, "dry_run": True}:
        yield f"at rest gc did not what it printed: {printed} {done}"


def main() -> None:
    root, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    settings = Settings(volume=root / "models", keep_revisions=0)
    remote = ObjectStore(DirectoryObjects(root / "bucket", label="directory://test"))
    clients = Clients(settings, Hub(settings), Volume(settings.volume), remote)
    clients.volume.prepare()
    roles: list[Role] = [serve, serve, publish, publish, undo, collect, collect]
    roles += [fetch] if sys.argv[4:] else []
    children = []
    for number, role in enumerate(roles):
        out = root / f"{number}.json"
        child = os.fork()
        if child == 0:
            result = run(role, clients, seed + number, seconds)
            out.write_text(json.dumps(result))
            os._exit(0)
        children.append((child, out))
    done: Counter[str] = Counter()
    wrong: list[str] = []
    for child, out in children:
        os.waitpid(child, 0)
        counts, errors = json.loads(out.read_text())
        done.update(counts)
        wrong += errors
    wrong += problems(clients)
    print(f"{done.pop('evicted')} evicted, {sum(done.values())} done, {len(wrong)} wrong: {dict(sorted(done.items()))}")
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
