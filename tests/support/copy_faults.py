"""Kill copies of a snapshot to S3 before each of their requests, and check S3 afterwards.

    python -m tests.support.copy_faults ROOT STRIDE KILLS

With a STRIDE of 3, before every third, from the third on, and KILLS times at most. After each kill a snapshot that is
visible in S3 has all of its bytes. Then the copy must succeed when it is repeated, and leave no unfinished upload.
PADDOCK_S3_URI and the AWS variables configure S3. The program prints one line of totals, and exits with status 1 if any
check failed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from paddock import settings
from paddock.lifecycle.clients import Clients, connect
from paddock.model.artifact import Manifest
from paddock.store.copying import push
from tests.support.stores import A, S3Store, id_of, manifest_of, put_blobs
from tests.support.tiny_hub import tiny_model

SEGMENT_BYTES = 4 * 1024 * 1024
BIG = {"m.gguf": tiny_model(1) + os.urandom(20 * 1024 * 1024), "config.json": b"{}"}
_SURVIVED, _FAILED = 0, 1


def clients_at(root: Path, prefix: str) -> Clients:
    """Clients of the volume at `root` and of a prefix in the bucket."""
    configured = settings.load()
    uri = f"{configured.s3_uri}/{prefix}"
    return connect(replace(configured, volume=root, s3_uri=uri, segment_bytes=SEGMENT_BYTES))


def published(clients: Clients) -> Manifest:
    manifest = manifest_of(A, BIG, segment_bytes=SEGMENT_BYTES)
    clients.volume.prepare()
    put_blobs(clients.volume, manifest, BIG, clients.volume.root)
    clients.volume.publish(manifest)
    return manifest


def push_and_die(clients: Clients, manifest: Manifest, number: int) -> int:
    """Push in a child, which is killed before the given request to S3 (counted from 1). Returns its exit code."""
    child = os.fork()
    if child == 0:
        status, calls = _FAILED, count(1)
        try:
            store = S3Store.of(clients)

            def kill_at_number(**_: Any) -> None:
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            store.client().meta.events.register("before-send.s3", kill_at_number)
            push(clients.volume, store, manifest)
            status = _SURVIVED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def problems_in_s3(s3: S3Store) -> Iterator[str]:
    for manifest in s3.snapshots():
        for file in manifest.files:
            key = f"{_prefix(s3)}/blobs/sha256/{file.sha256}"
            try:
                body = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
            except s3.client().exceptions.NoSuchKey:
                yield f"{file.path} of {manifest.id} is missing"
                continue
            if hashlib.sha256(body).hexdigest() != file.sha256:
                yield f"{file.path} of {manifest.id} has wrong bytes"


def unfinished_uploads(s3: S3Store) -> list[str]:
    listed = s3.client().list_multipart_uploads(Bucket=s3.bucket)
    return [upload["Key"] for upload in listed.get("Uploads", []) if upload["Key"].startswith(_prefix(s3))]


def _prefix(s3: S3Store) -> str:
    return s3.label.split("/", 3)[3]


def kill_pushes(root: Path, stride: int, kills: int) -> Iterator[str]:
    """Yields each problem, and a `.` for each kill."""
    manifest = published(clients_at(root, "none"))
    for number in range(stride, stride * (kills + 1), stride):
        clients = clients_at(root, secrets.token_hex(6))
        status = push_and_die(clients, manifest, number)
        if status == _SURVIVED:
            return
        if status != -signal.SIGKILL:
            yield f"request {number}: exited with {status}"
        s3 = S3Store.of(clients)
        yield from (f"request {number}: {problem}" for problem in problems_in_s3(s3))
        push(clients.volume, s3, manifest)
        yield from (f"request {number}, repeated: {problem}" for problem in problems_in_s3(s3))
        if s3.snapshot(id_of(A)) != manifest or unfinished_uploads(s3):
            yield f"request {number}: repeating the copy did not complete it"
        yield "."


def main() -> None:
    injected, failures = 0, []
    for outcome in kill_pushes(Path(sys.argv[1]), *map(int, sys.argv[2:])):
        if outcome == ".":
            injected += 1
        else:
            failures.append(outcome)
            print(outcome, file=sys.stderr)
    print(f"injected {injected}, wrong {len(failures)}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
