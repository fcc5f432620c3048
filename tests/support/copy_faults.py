"""Deaths in the middle of a copy: a program that kills itself at every point, and looks at what is left.

    python -m tests.support.copy_faults push|promote|restore ROOT STRIDE

`push` and `promote` kill (SIGKILL) before each request to S3 that the operation makes, one after the other, `restore`
before each change to the volume; with a STRIDE of 3 before each third. After each death nobody sees a third state: a
snapshot that is visible has all of its bytes, and a ref or a pointer shows one that is there. Then the operation must
succeed when it is done again. The environment says where S3 is (PADDOCK_S3_URI and the AWS variables). It ends with one
line, and status 1 when anything was wrong.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from paddock import settings
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.restoration import restore
from paddock.model.artifact import Manifest
from paddock.store.copying import push
from paddock.store.s3 import S3Store
from tests.support.house import tiny
from tests.support.stores import MODEL, A, B, manifest_of, put_blobs
from tests.support.volume_faults import CLEAN, at_change, in_child, problems

SEGMENT_BYTES = 4 * 1024 * 1024
BIG = {"m.gguf": tiny(1) + os.urandom(20 * 1024 * 1024), "config.json": b"{}"}
SMALL = {"m.gguf": tiny(2), "config.json": b"{}"}


def parts_at(root: Path, prefix: str) -> Parts:
    """A volume, and a place in the bucket that nobody else has."""
    known = settings.load()
    changed = {"volume": root, "s3_uri": f"{known.s3_uri}/{prefix}", "segment_bytes": SEGMENT_BYTES}
    return connect(known.model_copy(update=changed))


def s3_of(parts: Parts) -> S3Store:
    assert parts.s3 is not None
    return parts.s3


def published(parts: Parts, contents: dict[str, bytes], revision: Any = A) -> Manifest:
    manifest = manifest_of(revision, contents, segment_bytes=SEGMENT_BYTES)
    parts.volume.prepare()
    put_blobs(parts.volume, manifest, contents, parts.volume.root)
    parts.volume.publish(manifest)
    return manifest


def at_request(store: S3Store, number: int) -> None:
    """Arm this process: it is killed before that request (from 1) to S3."""
    seen = count(1)

    def strike(**_: Any) -> None:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    store._client().meta.events.register("before-send.s3", strike)


def problems_in_s3(parts: Parts) -> Iterator[str]:
    s3 = s3_of(parts)
    for manifest in s3.snapshots():
        for file in manifest.files:
            key = f"{s3.label.split('/', 3)[3]}/blobs/sha256/{file.sha256}"
            try:
                body = s3._client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
            except s3._client().exceptions.NoSuchKey:
                yield f"{file.path} of {manifest.revision} is not there"
                continue
            if hashlib.sha256(body).hexdigest() != file.sha256:
                yield f"{file.path} of {manifest.revision} has other bytes"
    promoted = s3.promoted(MODEL)
    if promoted is not None and s3.snapshot(MODEL, promoted) is None:
        yield f"the ref shows {promoted}, which is not there"


def every_point(
    stride: int,
    fresh: Callable[[], Parts],
    arm: Callable[[Parts, int], None],
    operation: Callable[[Parts], object],
    look: Callable[[Parts], Iterator[str]],
    done: Callable[[Parts], bool],
) -> Iterator[str]:
    """Die at each point; what went wrong comes out, and a `.` for each death."""
    for number in range(1, 2000, stride):
        parts = fresh()

        def work(parts: Parts = parts, number: int = number) -> None:
            arm(parts, number)
            operation(parts)

        status = in_child(work)
        if status == CLEAN:
            return
        if status != -signal.SIGKILL:
            yield f"point {number}: ended with {status}"
        yield from (f"point {number}: {problem}" for problem in look(parts))
        operation(parts)
        yield from (f"point {number}, again: {problem}" for problem in look(parts))
        if not done(parts):
            yield f"point {number}: doing it again did not do it"
        yield "."


def push_deaths(root: Path, stride: int) -> Iterator[str]:
    volume = root / "pushed"
    manifest = published(parts_at(volume, "none"), BIG)
    yield from every_point(
        stride,
        fresh=lambda: parts_at(volume, secrets.token_hex(6)),
        arm=lambda parts, number: at_request(s3_of(parts), number),
        operation=lambda parts: push(parts.volume, s3_of(parts), manifest),
        look=problems_in_s3,
        done=lambda parts: s3_of(parts).snapshot(MODEL, A) == manifest and not _unfinished(parts),
    )


def _unfinished(parts: Parts) -> list[str]:
    s3 = s3_of(parts)
    listed = s3._client().list_multipart_uploads(Bucket=s3.bucket)
    prefix = s3.label.split("/", 3)[3]
    return [one["Key"] for one in listed.get("Uploads", []) if one["Key"].startswith(prefix)]


def promote_deaths(root: Path, stride: int) -> Iterator[str]:
    volume = root / "promoted"
    before = [published(parts_at(volume, "none"), SMALL, revision) for revision in (A, B)]

    def fresh() -> Parts:
        parts = parts_at(volume, secrets.token_hex(6))
        for manifest in before:
            push(parts.volume, s3_of(parts), manifest)
        s3_of(parts).promote(MODEL, A, reason="before")
        return parts

    def look(parts: Parts) -> Iterator[str]:
        yield from problems_in_s3(parts)
        if s3_of(parts).promoted(MODEL) not in {A, B}:
            yield "the ref shows neither the one nor the other"

    yield from every_point(
        stride,
        fresh=fresh,
        arm=lambda parts, number: at_request(s3_of(parts), number),
        operation=lambda parts: s3_of(parts).promote(MODEL, B, reason="now"),
        look=look,
        done=lambda parts: s3_of(parts).promoted(MODEL) == B,
    )


def restore_deaths(root: Path, stride: int) -> Iterator[str]:
    source = parts_at(root / "source", secrets.token_hex(6))
    manifest = published(source, SMALL)
    push(source.volume, s3_of(source), manifest)
    s3_of(source).promote(MODEL, A, reason="before")
    target = root / "restored"

    def fresh() -> Parts:
        shutil.rmtree(target, ignore_errors=True)
        parts = connect(source.settings.model_copy(update={"volume": target}))
        parts.volume.prepare()
        return parts

    yield from every_point(
        stride,
        fresh=fresh,
        arm=lambda _, number: at_change(number, target, lambda _: os.kill(os.getpid(), signal.SIGKILL)),
        operation=lambda parts: restore(parts, MODEL),
        look=lambda _: problems(target),
        done=lambda parts: parts.volume.promoted(MODEL) == A and parts.volume.snapshot(MODEL, A) == manifest,
    )


def main() -> None:
    mode, root, stride = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    injected, wrong = 0, []
    deaths = {"push": push_deaths, "promote": promote_deaths, "restore": restore_deaths}[mode]
    for outcome in deaths(root, stride):
        if outcome == ".":
            injected += 1
        else:
            wrong.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
