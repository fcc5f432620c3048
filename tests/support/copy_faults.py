"""Kill copies between stores at every point, and check the stores afterwards.

    python -m tests.support.copy_faults push|change|restore ROOT STRIDE

`push` kills the process (SIGKILL) before each of the operation's requests to S3, `restore` before each of its changes
to the volume, and `change` (a promotion, and two rollbacks) before each of both; with a STRIDE of 3, before every
third. After each kill there must be no intermediate state: a visible snapshot has all of its bytes, a ref or a link
points to an existing snapshot, and the promoted snapshots, on the volume and in S3, are those of before or after the
operation. Then the operation must succeed when it is repeated, and take effect once. PADDOCK_S3_URI and the AWS
variables configure S3. The program prints one line of totals, and exits with status 1 if any check failed.
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
from tests.support.volume_faults import CLEAN, call_at_change, call_on_change, in_child, intermediate_states, problems
from tests.support.volume_operations import Pointers

SEGMENT_BYTES = 4 * 1024 * 1024
BIG = {"m.gguf": tiny_model(1) + os.urandom(20 * 1024 * 1024), "config.json": b"{}"}
FIRST = id_of(A)
SMALL = {"m.gguf": tiny_model(2), "config.json": b"{}"}


@dataclass(frozen=True)
class Change:
    """A change of the promoted snapshots.

    `before` were promoted on the volume and in S3, in that order; `published_only` are published in both, but not
    promoted.
    """

    name: str
    before: tuple[SnapshotId, ...]
    published_only: tuple[SnapshotId, ...]
    run: Callable[[Clients], object]


CHANGES = (
    Change(
        "a new revision of another variant becomes the default",
        before=(id_of(A), id_of(A, Q4)),
        published_only=(id_of(B),),
        run=lambda clients: promote.promote_snapshot(clients, id_of(B), reason="now"),
    ),
    Change(
        "the default goes back to another variant, which has an earlier revision",
        before=(id_of(A), id_of(B), id_of(A, Q4)),
        published_only=(),
        run=lambda clients: promote.roll_back(clients, Reference(MODEL), reason="now"),
    ),
    Change(
        "a variant that is not the default goes back by one of two revisions",
        before=(id_of(A), id_of(B), id_of(C), id_of(A, Q4)),
        published_only=(),
        run=lambda clients: promote.roll_back(clients, Reference(MODEL, Q8), reason="now"),
    ),
)


def clients_at(root: Path, prefix: str) -> Clients:
    """Clients of the volume at `root` and of a prefix in the bucket."""
    configured = settings.load()
    changed = {"volume": root, "s3_uri": f"{configured.s3_uri}/{prefix}", "segment_bytes": SEGMENT_BYTES}
    return connect(configured.model_copy(update=changed))


def s3_of(clients: Clients) -> S3Store:
    return S3Store.of(clients)


def published(clients: Clients, contents: dict[str, bytes], id: SnapshotId = FIRST) -> Manifest:
    manifest = manifest_of(id.revision, contents, variant=id.variant, segment_bytes=SEGMENT_BYTES)
    clients.volume.prepare()
    put_blobs(clients.volume, manifest, contents, clients.volume.root)
    clients.volume.publish(manifest)
    return manifest


def kill_at_request(store: S3Store, number: int) -> None:
    """Kill this process before the given request to S3 (counted from 1)."""
    calls = count(1)

    def kill_at_number(**_: Any) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    store.client().meta.events.register("before-send.s3", kill_at_number)


def kill_at_request_or_change(clients: Clients, number: int) -> None:
    """Kill this process before the given request to S3 or change to the volume (counted from 1)."""
    calls = count(1)

    def kill_at_number(*_: Any, **__: Any) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    s3_of(clients).client().meta.events.register("before-send.s3", kill_at_number)
    call_on_change(clients.volume.root, kill_at_number)


def problems_in_s3(clients: Clients) -> Iterator[str]:
    s3 = s3_of(clients)
    for manifest in s3.snapshots():
        for file in manifest.files:
            key = f"{s3.label.split('/', 3)[3]}/blobs/sha256/{file.sha256}"
            try:
                body = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
            except s3.client().exceptions.NoSuchKey:
                yield f"{file.path} of {manifest.id} is missing"
                continue
            if hashlib.sha256(body).hexdigest() != file.sha256:
                yield f"{file.path} of {manifest.id} has other bytes"
    promoted = s3.promoted(MODEL)
    yield from (f"the ref points to {id}, which is missing" for id in promoted.ids if s3.snapshot(id) is None)


def kill_at_every_point(
    stride: int,
    fresh: Callable[[], Clients],
    arm: Callable[[Clients, int], None],
    operation: Callable[[Clients], object],
    find_problems: Callable[[Clients], Iterator[str]],
    is_done: Callable[[Clients], bool],
) -> Iterator[str]:
    """Kill the operation at each point. Yields each problem, and a `.` for each kill."""
    for number in range(1, 2000, stride):
        clients = fresh()

        def work(clients: Clients = clients, number: int = number) -> None:
            arm(clients, number)
            operation(clients)

        status = in_child(work)
        if status == CLEAN:
            return
        if status != -signal.SIGKILL:
            yield f"point {number}: exited with {status}"
        yield from (f"point {number}: {problem}" for problem in find_problems(clients))
        operation(clients)
        yield from (f"point {number}, repeated: {problem}" for problem in find_problems(clients))
        if not is_done(clients):
            yield f"point {number}: repeating the operation did not complete it"
        yield "."


def kill_pushes(root: Path, stride: int) -> Iterator[str]:
    volume = root / "pushed"
    manifest = published(clients_at(volume, "none"), BIG)
    yield from kill_at_every_point(
        stride,
        fresh=lambda: clients_at(volume, secrets.token_hex(6)),
        arm=lambda clients, number: kill_at_request(s3_of(clients), number),
        operation=lambda clients: push(clients.volume, s3_of(clients), manifest),
        find_problems=problems_in_s3,
        is_done=lambda clients: s3_of(clients).snapshot(id_of(A)) == manifest and not _unfinished(clients),
    )


def _unfinished(clients: Clients) -> list[str]:
    s3 = s3_of(clients)
    listed = s3.client().list_multipart_uploads(Bucket=s3.bucket)
    prefix = s3.label.split("/", 3)[3]
    return [upload["Key"] for upload in listed.get("Uploads", []) if upload["Key"].startswith(prefix)]


def kill_changes(root: Path, stride: int) -> Iterator[str]:
    for change in CHANGES:
        yield from (
            outcome if outcome == "." else f"{change.name}, {outcome}" for outcome in kill_change(change, root, stride)
        )


def kill_change(change: Change, root: Path, stride: int) -> Iterator[str]:
    """Kill a change of the promoted snapshots that has no operation id, as from the command line."""
    prefix, template, volume = secrets.token_hex(6), root / "template", root / "changed"
    shutil.rmtree(template, ignore_errors=True)
    clients = clients_at(template, prefix)
    for id in change.before + change.published_only:
        push(clients.volume, s3_of(clients), published(clients, {"m.gguf": str(id).encode()}, id))
    for id in change.before:
        promote.promote_snapshot(clients, id, reason="before")
    old = Pointers.of(template), s3_of(clients)._ref(MODEL)[0]

    def fresh() -> Clients:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.copytree(template, volume, symlinks=True)
        clients = clients_at(volume, prefix)
        _, tag = s3_of(clients)._ref(MODEL)
        if not s3_of(clients)._put_ref(MODEL, old[1], tag):
            raise AssertionError("another process wrote the ref")
        return clients

    complete = fresh()
    change.run(complete)
    new = Pointers.of(volume), s3_of(complete)._ref(MODEL)[0]
    if old[0].promoted == new[0].promoted or old[1] == new[1]:
        yield "the operation changes nothing"

    def find_problems(clients: Clients) -> Iterator[str]:
        yield from problems(volume)
        current, ref = Pointers.of(volume), s3_of(clients)._ref(MODEL)[0]
        yield from intermediate_states(current, old[0], new[0])
        if ref not in (old[1], new[1]):
            yield f"the ref is {ref}"
        if ref == new[1] and current.promoted != new[0].promoted:
            yield "S3 has a change that the volume does not have"

    def is_done(clients: Clients) -> bool:
        return (Pointers.of(volume), s3_of(clients)._ref(MODEL)[0]) == new

    yield from kill_at_every_point(
        stride,
        fresh=fresh,
        arm=kill_at_request_or_change,
        operation=change.run,
        find_problems=find_problems,
        is_done=is_done,
    )


def kill_restores(root: Path, stride: int) -> Iterator[str]:
    source = clients_at(root / "source", secrets.token_hex(6))
    manifest = published(source, SMALL)
    push(source.volume, s3_of(source), manifest)
    s3_of(source).promote([manifest.id], default=manifest.id)
    target = root / "restored"

    def fresh() -> Clients:
        shutil.rmtree(target, ignore_errors=True)
        clients = connect(source.settings.model_copy(update={"volume": target}))
        clients.volume.prepare()
        return clients

    yield from kill_at_every_point(
        stride,
        fresh=fresh,
        arm=lambda _, number: call_at_change(number, target, lambda _: os.kill(os.getpid(), signal.SIGKILL)),
        operation=lambda clients: restore(PlainRunner(clients), Reference(MODEL)),
        find_problems=lambda _: problems(target),
        is_done=lambda clients: (
            clients.volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
            and clients.volume.snapshot(id_of(A)) == manifest
        ),
    )


def main() -> None:
    mode, root, stride = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, failures = 0, []
    modes = {
        "push": kill_pushes,
        "change": kill_changes,
        "restore": kill_restores,
    }
    for outcome in modes[mode](root, stride):
        if outcome == ".":
            injected += 1
        else:
            failures.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(failures)}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
