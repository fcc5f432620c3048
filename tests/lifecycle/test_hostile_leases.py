"""A download lease in a bucket holds no longer than its bound, whatever others wrote into it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.lifecycle.acquire import lease_wait
from paddock.model.acquired import Acquired
from paddock.model.artifact import RepositoryFile, SnapshotFile
from paddock.model.names import Sha256
from paddock.store.remote import ObjectStore
from tests.support.directory_store.objects import DirectoryObjects

FAR = "9999-12-31T23:59:59+00:00"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def objects(bucket: Path) -> DirectoryObjects:
    return DirectoryObjects(bucket, label="directory://bucket")


def lease(**values: object) -> bytes:
    usual = {"by": "user@host", "process": 1, "token": "ab" * 8, "since": "2026-05-01T09:00:00+00:00", "done_bytes": 0}
    return json.dumps({**usual, **values}).encode()


LEASES: dict[str, bytes] = {
    "of the year 9999": lease(since=FAR, at=FAR, until=FAR, expires=FAR),
    "that lasts without an end": lease(lease_s=1e999, duration_s=float("inf"), ttl=-1),
    "with a negative duration": lease(lease_s=-1, done_bytes=-1),
    "of a foreign token": lease(token="x" * 10_000),
    "of a token that is no text": lease(token={"a": []}),
    "with megabytes of text": lease(by="x" * 2**21),
    "with control characters": lease(by="\x1b[2J\x00\u202e", since="\r\n" * 10),
    "with progress beyond the file": lease(done_bytes=10**30),
    "with progress without an end": lease(done_bytes=1e999),
    "of a process that is no number": lease(process="../../x"),
    "nested": b"[" * 5000,
    "empty": b"",
    "not UTF-8": b"\xff",
    "not JSON": b"{",
}


def _fetch_once(
    store: ObjectStore, *, size: int = 5, no_progress_leases: float = lease_wait.NO_PROGRESS_LEASES
) -> Acquired:
    digest = Sha256("c" * 64)
    fetched = Acquired(SnapshotFile(path="m.gguf", size=size, sha256=digest), "hub", size)

    def never() -> Acquired:
        raise AssertionError("it is not in the store")

    return lease_wait.fetch_once(
        store,
        digest,
        RepositoryFile("m.gguf", size, digest, None),
        lease_s=60.0,
        from_volume=lambda: None,
        from_remote=never,
        from_hub=lambda _: fetched,
        share=lambda *_: 0,
        no_progress_leases=no_progress_leases,
    )


def plant_lease(bucket: Path, content: bytes, *, age_s: float) -> Path:
    path = bucket / "leases" / f"{'c' * 64}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.parametrize("age_s", [61.0, -7e9], ids=["not renewed", "of a clock in the future"])
@pytest.mark.parametrize("content", LEASES.values(), ids=LEASES)
def test_a_lease_holds_no_longer_than_its_bound_whatever_it_says(
    objects: DirectoryObjects, bucket: Path, content: bytes, age_s: float
) -> None:
    path = plant_lease(bucket, content, age_s=age_s)
    began = time.monotonic()
    assert _fetch_once(ObjectStore(objects)).origin == "hub"
    assert time.monotonic() - began < 5
    assert not path.exists(), "it was taken over, and released"


class Renewed(DirectoryObjects):
    """A bucket in which somebody else renews a lease all the time, each time with another owner and more progress."""

    count = 0

    def get(self, key: str) -> Any:
        if key.startswith("leases/") and (self._home / key).exists() and self.count < 50:
            Renewed.count += 1
            (self._home / key).write_bytes(lease(by=f"somebody-{self.count}", done_bytes=self.count))
        return super().get(key)


def test_a_lease_that_is_renewed_with_every_look_is_waited_for_to_an_end(bucket: Path) -> None:
    plant_lease(bucket, lease(), age_s=0)
    renewing = ObjectStore(Renewed(bucket, label="directory://bucket"))
    assert lease_wait.longest_wait_s(5, 0.5) < 1
    began = time.monotonic()
    try:
        assert _fetch_once(renewing, no_progress_leases=0.5 / 60).origin == "hub"
    finally:
        Renewed.count = 0
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("size", "hours"), [(5 * 10**9, 11), (100 * 10**9, 215)])
def test_the_wait_for_a_lease_is_bounded_by_the_size_of_the_file(size: int, hours: int) -> None:
    assert 600 < lease_wait.longest_wait_s(size, 600) < hours * 3600
