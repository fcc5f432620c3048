"""Turns on a real S3: one owner at a time, and none for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.local.s3 import S3Server
from paddock.model.names import Sha256
from paddock.store.protocol import DownloadLease, HeldLease
from paddock.store.remote.download_lease import ObjectLease
from paddock.store.s3 import S3Options
from tests.support.s3_proxy import Fault, proxied
from tests.support.stores import S3Store
from tests.support.waiting import wait_for_value

BLOB = Sha256("a" * 64)
LEASE_S = 60.0
"""A living owner is never silent for so long, however busy the machine is."""
OVER_S = -1.0
"""A lease that every owner has outlived, whatever its age by the server's clock."""
QUICK_S = 0.6


def take(store: S3Store, *, lease_s: float = LEASE_S) -> DownloadLease | HeldLease | None:
    return store.take_lease(BLOB, lease_s=lease_s)


def wait_for_sign_of_life(store: S3Store, *, after: str | None = None, done_bytes: int = 0) -> HeldLease:
    """What the others say of an owner that has written its turn anew since it had the tag `after`."""

    def look() -> HeldLease | None:
        found = take(store)
        assert isinstance(found, HeldLease)
        return found if found.tag != after and found.done_bytes >= done_bytes else None

    return wait_for_value(look)


def test_of_many_that_ask_at_once_one_has_the_turn(s3_store: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: take(s3_store, lease_s=60), range(8)))
    assert sum(isinstance(one, ObjectLease) for one in got) == 1
    others = take(s3_store)
    assert isinstance(others, HeldLease)
    assert not others.is_expired


def test_a_turn_that_was_given_back_is_anybodys(s3_store: S3Store) -> None:
    for _ in range(2):
        turn = take(s3_store)
        assert isinstance(turn, ObjectLease)
        turn.release()


def test_an_owner_that_works_is_alive_and_says_how_far_it_is(s3_store: S3Store) -> None:
    turn = take(s3_store)
    assert isinstance(turn, ObjectLease)
    with turn.held(lease_s=QUICK_S):
        turn.tell(12_345)
        others = wait_for_sign_of_life(s3_store, done_bytes=12_345)
        assert not others.is_expired
        assert "process" in others.owner
        tags = [others.tag]
        for number in range(6):  # more signs of life than there are in two leases
            turn.tell(20_000 + number)
            tags.append(wait_for_sign_of_life(s3_store, after=tags[-1]).tag)
        assert len(set(tags)) == 7
    assert isinstance(take(s3_store), ObjectLease)


def test_of_many_that_find_a_dead_owner_one_takes_over_and_the_dead_one_does_not_end_it(s3_store: S3Store) -> None:
    dead = take(s3_store)
    assert isinstance(dead, ObjectLease)
    found = take(s3_store, lease_s=OVER_S)
    assert isinstance(found, HeldLease)
    assert found.is_expired
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: s3_store.take_over_lease(BLOB, found), range(8)))
    assert sum(one is not None for one in got) == 1
    dead.release()
    assert isinstance(take(s3_store), HeldLease)


def test_a_turn_whose_answer_was_lost_is_ours_all_the_same(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, s3_store: S3Store
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with proxied(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = S3Store(s3_store.label, options=S3Options(stall_s=2))
        proxy.faults = [Fault("lost", ("PUT",), "/leases/", times=1)]
        turn = take(store)
        assert isinstance(turn, ObjectLease)
        first = take(s3_store)
        assert isinstance(first, HeldLease)
        proxy.faults = [Fault("lost", ("PUT",), "/leases/", times=2)]
        turn.tell(7)
        with turn.held(lease_s=QUICK_S):
            lost = wait_for_sign_of_life(s3_store, after=first.tag, done_bytes=7)
            turn.tell(8)
            kept = wait_for_sign_of_life(s3_store, after=lost.tag, done_bytes=8)
            assert not kept.is_expired
        assert isinstance(take(s3_store), ObjectLease)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"by": 1}', b"\xff", b'{"by": "x", "since": 1, "done_bytes": "y"}'])
def test_a_lease_that_cannot_be_read_dies_like_any_other(s3_store: S3Store, content: bytes) -> None:
    key = f"{s3_store.label.split('/', 3)[3]}/leases/{BLOB}.json"
    s3_store.client().put_object(Bucket=s3_store.bucket, Key=key, Body=content)
    others = take(s3_store)
    assert isinstance(others, HeldLease)
    assert isinstance(s3_store.take_over_lease(BLOB, others), ObjectLease)
