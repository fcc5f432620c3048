"""Deaths in the middle of a copy: a program that kills itself at every point, and looks at what is left.

    python -m tests.support.copy_faults push|change|restore ROOT STRIDE

`push` kills (SIGKILL) before each request to S3 that the operation makes, one after the other, `restore` before each
change to the volume, and `change` (a promotion, and two rollbacks) before each of both; with a STRIDE of 3 before each
third. After each death nobody sees a third state: a snapshot that is visible has all of its bytes, a ref or a pointer
shows one that is there, and what is promoted, on the volume and in S3, is as before the operation or after it. Then the
operation must succeed when it is done again, and be done once. The environment says where S3 is (PADDOCK_S3_URI and the
AWS variables). It ends with one line, and status 1 when anything was wrong.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from paddock import settings
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote import promote
from paddock.lifecycle.steps import PlainRunner
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference, SnapshotId
from paddock.store.copying import push
from paddock.store.history import Promoted
from tests.support.stores import MODEL, Q4, Q8, A, B, C, S3Store, id_of, manifest_of, put_blobs
from tests.support.tiny_hub import tiny_model
from tests.support.volume_faults import CLEAN, Pointers, at_change, half_done, in_child, on_change, problems

SEGMENT_BYTES = 4 * 1024 * 1024
BIG = {"m.gguf": tiny_model(1) + os.urandom(20 * 1024 * 1024), "config.json": b"{}"}
FIRST = id_of(A)
SMALL = {"m.gguf": tiny_model(2), "config.json": b"{}"}


@dataclass(frozen=True)
class Change:
    """A change of what is promoted. `before` were promoted on the volume and in S3, in that order; `beside` are
    published in both."""

    name: str
    before: tuple[SnapshotId, ...]
    beside: tuple[SnapshotId, ...]
    run: Callable[[Clients], object]


CHANGES = (
    Change(
        "a new revision of another variant becomes the default",
        before=(id_of(A), id_of(A, Q4)),
        beside=(id_of(B),),
        run=lambda clients: promote.promote_snapshot(clients, id_of(B), reason="now"),
    ),
    Change(
        "the default goes back to another variant, which has an earlier revision",
        before=(id_of(A), id_of(B), id_of(A, Q4)),
        beside=(),
        run=lambda clients: promote.roll_back(clients, Reference(MODEL), reason="now"),
    ),
    Change(
        "a variant that is not the default goes back by one of two revisions",
        before=(id_of(A), id_of(B), id_of(C), id_of(A, Q4)),
        beside=(),
        run=lambda clients: promote.roll_back(clients, Reference(MODEL, Q8), reason="now"),
    ),
)


def parts_at(root: Path, prefix: str) -> Clients:
    """A volume, and a place in the bucket that nobody else has."""
    known = settings.load()
    changed = {"volume": root, "s3_uri": f"{known.s3_uri}/{prefix}", "segment_bytes": SEGMENT_BYTES}
    return connect(known.model_copy(update=changed))


def s3_of(clients: Clients) -> S3Store:
    return S3Store.of(clients)


def published(clients: Clients, contents: dict[str, bytes], id: SnapshotId = FIRST) -> Manifest:
    manifest = manifest_of(id.revision, contents, variant=id.variant, segment_bytes=SEGMENT_BYTES)
    clients.volume.prepare()
    put_blobs(clients.volume, manifest, contents, clients.volume.root)
    clients.volume.publish(manifest)
    return manifest


def at_request(store: S3Store, number: int) -> None:
    """Arm this process: it is killed before that request (from 1) to S3."""
    seen = count(1)

    def strike(**_: Any) -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    store.client().meta.events.register("before-send.s3", strike)


def at_any(clients: Clients, number: int) -> None:
    """Arm this process: it is killed before that request to S3 or change to the volume (from 1)."""
    seen = count(1)

    def strike(*_: Any, **__: Any) -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    s3_of(clients).client().meta.events.register("before-send.s3", strike)
    on_change(clients.volume.root, strike)


def problems_in_s3(clients: Clients) -> Iterator[str]:
    s3 = s3_of(clients)
    for manifest in s3.snapshots():
        for file in manifest.files:
            key = f"{s3.label.split('/', 3)[3]}/blobs/sha256/{file.sha256}"
            try:
                body = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
            except s3.client().exceptions.NoSuchKey:
                yield f"{file.path} of {manifest.id} is not there"
                continue
            if hashlib.sha256(body).hexdigest() != file.sha256:
                yield f"{file.path} of {manifest.id} has other bytes"
    promoted = s3.promoted(MODEL)
    yield from (f"the ref shows {id}, which is not there" for id in promoted.ids if s3.snapshot(id) is None)


def every_point(
    stride: int,
    fresh: Callable[[], Clients],
    arm: Callable[[Clients, int], None],
    operation: Callable[[Clients], object],
    look: Callable[[Clients], Iterator[str]],
    done: Callable[[Clients], bool],
) -> Iterator[str]:
    """Die at each point; what went wrong comes out, and a `.` for each death."""
    for number in range(1, 2000, stride):
        clients = fresh()

        def work(clients: Clients = clients, number: int = number) -> None:
            arm(clients, number)
            operation(clients)

        status = in_child(work)
        if status == CLEAN:
            return
        if status != -signal.SIGKILL:
            yield f"point {number}: ended with {status}"
        yield from (f"point {number}: {problem}" for problem in look(clients))
        operation(clients)
        yield from (f"point {number}, again: {problem}" for problem in look(clients))
        if not done(clients):
            yield f"point {number}: doing it again did not do it"
        yield "."


def push_deaths(root: Path, stride: int) -> Iterator[str]:
    volume = root / "pushed"
    manifest = published(parts_at(volume, "none"), BIG)
    yield from every_point(
        stride,
        fresh=lambda: parts_at(volume, secrets.token_hex(6)),
        arm=lambda clients, number: at_request(s3_of(clients), number),
        operation=lambda clients: push(clients.volume, s3_of(clients), manifest),
        look=problems_in_s3,
        done=lambda clients: s3_of(clients).snapshot(id_of(A)) == manifest and not _unfinished(clients),
    )


def _unfinished(clients: Clients) -> list[str]:
    s3 = s3_of(clients)
    listed = s3.client().list_multipart_uploads(Bucket=s3.bucket)
    prefix = s3.label.split("/", 3)[3]
    return [one["Key"] for one in listed.get("Uploads", []) if one["Key"].startswith(prefix)]


def change_deaths(root: Path, stride: int) -> Iterator[str]:
    for change in CHANGES:
        yield from (one if one == "." else f"{change.name}, {one}" for one in deaths_in(change, root, stride))


def deaths_in(change: Change, root: Path, stride: int) -> Iterator[str]:
    """Deaths in a change of what is promoted, which has no id of an operation, as the command line calls it."""
    prefix, template, volume = secrets.token_hex(6), root / "template", root / "changed"
    shutil.rmtree(template, ignore_errors=True)
    clients = parts_at(template, prefix)
    for id in change.before + change.beside:
        push(clients.volume, s3_of(clients), published(clients, {"m.gguf": str(id).encode()}, id))
    for id in change.before:
        promote.promote_snapshot(clients, id, reason="before")
    old = Pointers.of(template), s3_of(clients)._ref(MODEL)[0]

    def fresh() -> Clients:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.copytree(template, volume, symlinks=True)
        made = parts_at(volume, prefix)
        _, tag = s3_of(made)._ref(MODEL)
        if not s3_of(made)._put_ref(MODEL, old[1], tag):
            raise AssertionError("somebody else wrote the ref")
        return made

    whole = fresh()
    change.run(whole)
    new = Pointers.of(volume), s3_of(whole)._ref(MODEL)[0]
    if old[0].promoted == new[0].promoted or old[1] == new[1]:
        yield "the change changes nothing"

    def look(clients: Clients) -> Iterator[str]:
        yield from problems(volume)
        seen, ref = Pointers.of(volume), s3_of(clients)._ref(MODEL)[0]
        yield from half_done(seen, old[0], new[0])
        if ref not in (old[1], new[1]):
            yield f"the ref is {ref}"
        if ref == new[1] and seen.promoted != new[0].promoted:
            yield "S3 knows of a change that the volume does not have"

    def done(clients: Clients) -> bool:
        return (Pointers.of(volume), s3_of(clients)._ref(MODEL)[0]) == new

    yield from every_point(stride, fresh=fresh, arm=at_any, operation=change.run, look=look, done=done)


def restore_deaths(root: Path, stride: int) -> Iterator[str]:
    source = parts_at(root / "source", secrets.token_hex(6))
    manifest = published(source, SMALL)
    push(source.volume, s3_of(source), manifest)
    s3_of(source).promote([manifest.id], default=manifest.id)
    target = root / "restored"

    def fresh() -> Clients:
        shutil.rmtree(target, ignore_errors=True)
        clients = connect(source.settings.model_copy(update={"volume": target}))
        clients.volume.prepare()
        return clients

    yield from every_point(
        stride,
        fresh=fresh,
        arm=lambda _, number: at_change(number, target, lambda _: os.kill(os.getpid(), signal.SIGKILL)),
        operation=lambda clients: restore(PlainRunner(clients), Reference(MODEL)),
        look=lambda _: problems(target),
        done=lambda clients: (
            clients.volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
            and clients.volume.snapshot(id_of(A)) == manifest
        ),
    )


def main() -> None:
    mode, root, stride = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, wrong = 0, []
    modes = {
        "push": push_deaths,
        "change": change_deaths,
        "restore": restore_deaths,
    }
    for outcome in modes[mode](root, stride):
        if outcome == ".":
            injected += 1
        else:
            wrong.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
