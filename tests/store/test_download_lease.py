"""Download leases on a real S3: one owner at a time, and none forever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.local.s3 import S3Server
from paddock.model.names import Sha256
from paddock.store.protocol import DownloadLease, HeldLease
from paddock.store.remote.download_lease import ObjectLease
from paddock.store.s3 import S3Options
from tests.support.s3_proxy import S3Fault, proxied
from tests.support.stores import S3Store
from tests.support.waiting import wait_for_value

BLOB = Sha256("a" * 64)
LEASE_S = 60.0
"""Longer than any pause of a live owner, however busy the machine is."""
EXPIRED_S = -1.0
"""A lease time for which every lease is expired, whatever its age by the server's clock."""
SHORT_S = 0.6


def take(store: S3Store, *, lease_s: float = LEASE_S) -> DownloadLease | HeldLease | None:
    return store.take_lease(BLOB, lease_s=lease_s)


def wait_for_renewal(store: S3Store, *, after: str | None = None, done_bytes: int = 0) -> HeldLease:
    """Wait until the owner has renewed a lease that had the tag `after`, and return it as another worker sees it."""

    def look() -> HeldLease | None:
        found = take(store)
        assert isinstance(found, HeldLease)
        return found if found.tag != after and found.done_bytes >= done_bytes else None

    return wait_for_value(look)


def test_of_many_that_take_a_lease_at_once_one_gets_it(s3_store: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: take(s3_store, lease_s=60), range(8)))
    assert sum(isinstance(lease, ObjectLease) for lease in leases) == 1
    others = take(s3_store)
    assert isinstance(others, HeldLease)
    assert not others.is_expired


def test_a_released_lease_can_be_taken_again(s3_store: S3Store) -> None:
    for _ in range(2):
        lease = take(s3_store)
        assert isinstance(lease, ObjectLease)
        lease.release()


def test_a_held_lease_is_renewed_with_its_progress(s3_store: S3Store) -> None:
    lease = take(s3_store)
    assert isinstance(lease, ObjectLease)
    with lease.held(lease_s=SHORT_S):
        lease.set_progress(12_345)
        others = wait_for_renewal(s3_store, done_bytes=12_345)
        assert not others.is_expired
        assert "process" in others.owner
        tags = [others.tag]
        for number in range(6):  # more renewals than there are in two lease times
            lease.set_progress(20_000 + number)
            tags.append(wait_for_renewal(s3_store, after=tags[-1]).tag)
        assert len(set(tags)) == 7
    assert isinstance(take(s3_store), ObjectLease)


def test_of_many_that_find_an_expired_lease_one_takes_it_over_for_good(s3_store: S3Store) -> None:
    dead = take(s3_store)
    assert isinstance(dead, ObjectLease)
    found = take(s3_store, lease_s=EXPIRED_S)
    assert isinstance(found, HeldLease)
    assert found.is_expired
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: s3_store.take_over_lease(BLOB, found), range(8)))
    assert sum(lease is not None for lease in leases) == 1
    dead.release()
    assert isinstance(take(s3_store), HeldLease)


def test_a_lease_whose_response_was_lost_is_held(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, s3_store: S3Store
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with proxied(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = S3Store(s3_store.label, options=S3Options(stall_s=2))
        proxy.faults = [S3Fault("lost", ("PUT",), "/leases/", times=1)]
        lease = take(store)
        assert isinstance(lease, ObjectLease)
        first = take(s3_store)
        assert isinstance(first, HeldLease)
        proxy.faults = [S3Fault("lost", ("PUT",), "/leases/", times=2)]
        lease.set_progress(7)
        with lease.held(lease_s=SHORT_S):
            lost = wait_for_renewal(s3_store, after=first.tag, done_bytes=7)
            lease.set_progress(8)
            kept = wait_for_renewal(s3_store, after=lost.tag, done_bytes=8)
            assert not kept.is_expired
        assert isinstance(take(s3_store), ObjectLease)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"by": 1}', b"\xff", b'{"by": "x", "since": 1, "done_bytes": "y"}'])
def test_a_lease_that_cannot_be_read_can_be_taken_over(s3_store: S3Store, content: bytes) -> None:
    key = f"{s3_store.label.split('/', 3)[3]}/leases/{BLOB}.json"
    s3_store.client().put_object(Bucket=s3_store.bucket, Key=key, Body=content)
    others = take(s3_store)
    assert isinstance(others, HeldLease)
    assert isinstance(s3_store.take_over_lease(BLOB, others), ObjectLease)
