"""Workers with volumes of their own and a common bucket: one fetches from the Hub, even if its owner is killed."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import CorruptFile, TransferInterrupted
from paddock.lifecycle.acquire import fetch, lease_wait
from paddock.lifecycle.acquire.plan import plan
from paddock.lifecycle.clients import Clients, connect
from paddock.model.acquired import Acquired
from paddock.model.artifact import RepositoryFile, SnapshotFile
from paddock.model.names import ModelName, Sha256
from paddock.planning.file_selection import select_files
from paddock.store.remote import ObjectStore
from paddock.store.remote.download_lease import ObjectLease
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.fault_totals import Faults
from tests.support.forked import Command
from tests.support.segmented_model import SEGMENT_BYTES, segmented_model
from tests.support.stores import S3Store
from tests.support.tiny_hub import use_hub, use_s3

NAME = "org/larger-GGUF"
MODEL = ModelName.parse(NAME)
FILE = "larger-F32.gguf"
HEADER_BYTES = 1024 * 1024
"""Bytes that a preflight reads of a file with a small header."""
GIGABYTE = {"layers": 4, "width": 2048, "inner": 8192}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> S3Store:
    """An empty prefix in the bucket, which the environment names."""
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"fleet-{secrets.token_hex(4)}")
    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    monkeypatch.setenv("PADDOCK_LEASE_S", "2")
    uri = connect().settings.s3_uri
    assert uri is not None
    return S3Store(uri)


@contextmanager
def workers(home: Path, count: int, **more: str) -> Iterator[list[Command]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Command(
                    "pull",
                    NAME,
                    "--json",
                    env={**os.environ, "PADDOCK_VOLUME": str(home / f"volume-{number}"), **more},
                )
            )
            for number in range(count)
        ]


def answers(processes: list[Command]) -> list[dict[str, Any]]:
    outputs = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [json.loads(out) for out, _ in outputs]


def owner_of(bucket: S3Store, digest: Sha256) -> int:
    """The process that fetches a blob for the fleet."""
    key = f"{bucket.label.split('/', 3)[3]}/leases/{digest}.json"
    return int(json.loads(bucket.client().get_object(Bucket=bucket.bucket, Key=key)["Body"].read())["process"])


def check(home: Path, count: int, content: bytes, *, but: int = -1) -> None:
    for number in set(range(count)) - {but}:
        assert (home / f"volume-{number}" / MODEL.slug / FILE).read_bytes() == content


def sizes(sample: int) -> pytest.MarkDecorator:
    """The full number of workers on a gigabyte behind `make torture`, and a sample in every run."""
    full = pytest.param(GIGABYTE, 8, marks=pytest.mark.torture)
    return pytest.mark.parametrize(("shape", "count"), [({}, sample), full], ids=["9 MB", "1 GB"])


@pytest.mark.timeout(1800)
@sizes(2)
def test_of_many_workers_with_volumes_of_their_own_one_fetches_from_the_hub(
    bucket: S3Store, hub: HubService, tmp_path: Path, shape: dict[str, int], count: int
) -> None:
    content = segmented_model(**shape)
    hub.repository(NAME).commit({FILE: content})
    hub.reset_stats()
    with workers(tmp_path, count, **pace(shape)) as processes:
        outputs = answers(processes)
    sent = hub.stats().bytes_sent[f"{NAME}/{FILE}"]
    print(f"{count} workers, {len(content)} bytes: the hub sent {sent / len(content):.3f} times the model")
    # Each worker's preflight reads the header by itself, where S3 has not the file yet.
    assert sent <= 1.1 * len(content) + (0 if shape else count * HEADER_BYTES)
    assert sorted(file["source"] for one in outputs for file in one["files"]) == ["hub"] + ["s3"] * (count - 1)
    check(tmp_path, count, content)
    assert [key for key in keys(bucket) if "/leases/" in key] == []


@pytest.mark.timeout(1800)
@sizes(2)
def test_when_the_owner_of_a_lease_is_killed_another_worker_takes_it_over(
    bucket: S3Store, hub: HubService, tmp_path: Path, faults: Faults, shape: dict[str, int], count: int
) -> None:
    faults.add()
    content = segmented_model(**shape)
    digest = Sha256(sha256(content).hexdigest())
    hub.repository(NAME).commit({FILE: content})
    hub.reset_stats()
    # So slow that every preflight is over before the owner has come far.
    with workers(tmp_path, count, **pace(shape, sample=1)) as processes:
        hub.wait_until(lambda stats: stats.total_bytes_sent > (0.45 if shape else 0.35) * len(content), timeout_s=300)
        killed = next(one for one in processes if one.pid == owner_of(bucket, digest))
        killed.kill()
        killed.communicate()
        outputs = answers([one for one in processes if one is not killed])
    sent = hub.stats().bytes_sent[f"{NAME}/{FILE}"]
    print(f"the owner of {count} killed: the hub sent {sent / len(content):.3f} times the model")
    assert sent <= 1.6 * len(content)
    assert sorted(file["source"] for one in outputs for file in one["files"]) == ["hub"] + ["s3"] * (count - 2)
    with workers(tmp_path / "late", 1) as late:
        answers(late)
    assert hub.stats().bytes_sent[f"{NAME}/{FILE}"] == sent
    check(tmp_path, count, content, but=processes.index(killed))


def pace(shape: dict[str, int], *, sample: int = 3) -> dict[str, str]:
    """Slow enough that they meet it half done, on a machine that may be busy; `sample` segments a second of a small
    one."""
    return {"PADDOCK_LIMIT_RATE": str((sample if not shape else 40) * SEGMENT_BYTES), "PADDOCK_LEASE_S": "4"}


def keys(bucket: S3Store) -> list[str]:
    listed = bucket.client().list_objects_v2(Bucket=bucket.bucket, Prefix=bucket.label.split("/", 3)[3])
    return [one["Key"] for one in listed.get("Contents", [])]


@pytest.fixture
def content(hub: HubService) -> bytes:
    made = segmented_model()
    hub.repository(NAME).commit({FILE: made})
    hub.reset_stats()
    return made


def acquire(clients: Clients, cancel: threading.Event | None = None) -> Acquired:
    """The model's one file, by a worker of this process."""
    clients.volume.prepare()
    listing = clients.hub.listing(MODEL)
    (row,) = plan(clients, listing, select_files(listing)).files
    return fetch.fetch_file(clients, listing, row, cancel=cancel)


def test_a_lease_whose_owner_died_long_ago_is_taken_over(
    bucket: S3Store, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    digest = Sha256(sha256(content).hexdigest())
    assert isinstance(bucket.take_lease(digest, lease_s=2), ObjectLease)
    with caplog.at_level(logging.WARNING, logger="paddock"):
        assert acquire(connect()).origin == "hub"
    assert "is taken over from" in caplog.text
    assert bucket.has_blob(digest, len(content))


def test_an_owner_without_progress_loses_its_lease(bucket: S3Store, content: bytes) -> None:
    digest = Sha256(sha256(content).hexdigest())
    fetched = Acquired(SnapshotFile(path=FILE, size=len(content), sha256=digest), "hub", len(content))
    stuck = bucket.take_lease(digest, lease_s=2)
    assert isinstance(stuck, ObjectLease)

    def never() -> Acquired:
        raise AssertionError("it is not in S3")

    with stuck.held(lease_s=2):
        acquired = lease_wait.fetch_once(
            bucket,
            digest,
            RepositoryFile(FILE, len(content), digest, None),
            lease_s=2,
            from_volume=lambda: None,
            from_remote=never,
            from_hub=lambda _: fetched,
            share=lambda *_: 0,
            no_progress_leases=1,
        )
    assert acquired is fetched


def test_a_waiting_worker_can_be_cancelled(bucket: S3Store, content: bytes) -> None:
    lease = bucket.take_lease(Sha256(sha256(content).hexdigest()), lease_s=2)
    assert isinstance(lease, ObjectLease)
    cancel = threading.Event()
    cancel.set()
    with lease.held(lease_s=2), pytest.raises(TransferInterrupted, match="cancelled while another worker"):
        acquire(connect(), cancel)


class NoWrites(DirectoryObjects):
    """An object service that refuses conditional writes, and keeps nothing of the others, which `writes` counts."""

    writes = 0

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        return None

    def put(self, key: str, content: bytes) -> None:
        self.writes += 1


def test_a_store_that_gives_nobody_a_lease_is_not_asked_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects = NoWrites(tmp_path / "bucket", label="directory://bucket")
    digest = Sha256(sha256(b"bytes").hexdigest())
    fetched = Acquired(SnapshotFile(path=FILE, size=5, sha256=digest), "hub", 5)

    def never() -> Acquired:
        raise AssertionError("it is not in the store")

    with caplog.at_level(logging.WARNING, logger="paddock"):
        acquired = lease_wait.fetch_once(
            ObjectStore(objects),
            digest,
            RepositoryFile(FILE, 5, digest, None),
            lease_s=60,
            from_volume=lambda: None,
            from_remote=never,
            from_hub=lambda _: fetched,
            share=lambda *_: 0,
        )
    assert acquired is fetched
    assert objects.writes == lease_wait.MAX_REFUSALS
    assert "gives nobody the download lease" in caplog.text


def test_a_failed_download_releases_the_lease(bucket: S3Store, hub: HubService, content: bytes) -> None:
    hub.inject("flip", f"{NAME}/{FILE}", offset=20_000, times=None)
    with pytest.raises(CorruptFile):
        acquire(connect())
    hub.clear_faults()
    assert keys(bucket) == []
    assert acquire(connect()).origin == "hub"


def test_of_workers_that_find_a_damaged_object_one_fetches_from_the_hub_and_replaces_it(
    monkeypatch: pytest.MonkeyPatch, bucket: S3Store, hub: HubService, content: bytes, tmp_path: Path
) -> None:
    acquire(connect())
    damaged = bytearray(content)
    damaged[5_000_000] ^= 1
    (key,) = (key for key in keys(bucket) if "/blobs/" in key)
    bucket.client().put_object(Bucket=bucket.bucket, Key=key, Body=bytes(damaged))
    hub.reset_stats()
    homes = []
    for number in range(3):
        monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / f"other-{number}"))
        homes.append(connect())
    with ThreadPoolExecutor(3) as pool:
        origins = sorted(one.origin for one in pool.map(acquire, homes))
    assert origins == ["hub", "s3", "s3"]
    assert hub.stats().bytes_sent[f"{NAME}/{FILE}"] == len(content)
    assert bucket.client().get_object(Bucket=bucket.bucket, Key=key)["Body"].read() == content
