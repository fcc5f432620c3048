"""The plan of an eviction: what goes, in which order, what it frees, and why the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.lifecycle.eviction.plan import (
    BlobFacts,
    EvictionPlan,
    SnapshotFacts,
    VolumeFacts,
    plan,
    plan_room,
)
from paddock.model.names import Revision, Sha256
from tests.support.stores import START, id_of

BLOBS = [Sha256(f"{number:064x}") for number in range(8)]
PROTECTIONS: Mapping[str, Any] = {
    "default": True,
    "promoted": True,
    "rollback_target": True,
    "pinned": True,
    "in_use_by": ("process 7 on host",),
    "wanted": True,
    "recent": True,
    "in_transfer": True,
}


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def snapshot(number: int, *blobs: int, day_of_use: int | None = None, **facts: Any) -> SnapshotFacts:
    names = frozenset(BLOBS[one] for one in blobs)
    used = None if day_of_use is None else day(day_of_use)
    return SnapshotFacts(id_of(Revision(f"{number:040x}")), names, 0, day(0), used, **facts)


def volume_of(*snapshots: SnapshotFacts, **sizes: int) -> VolumeFacts:
    """Each blob that a snapshot names has 100 bytes, or those given for its number (`b3=50`)."""
    named = sorted({sha256 for one in snapshots for sha256 in one.blobs})
    blobs = {sha256: BlobFacts(sizes.get(f"b{BLOBS.index(sha256)}", 100)) for sha256 in named}
    return VolumeFacts(snapshots, blobs)


def numbers(planned: EvictionPlan) -> list[int]:
    return [int(removal.snapshot.id.revision, 16) for removal in planned.remove]


def reasons(planned: EvictionPlan) -> dict[int, str]:
    return {int(one.id.revision, 16): reason for one, reason in planned.kept}


snapshots = st.lists(
    st.builds(
        lambda blobs, used, created, copied, surplus, protection: replace(
            snapshot(0, *blobs, day_of_use=used, copied=copied, surplus=surplus),
            created_at=day(created),
            **({protection: PROTECTIONS[protection]} if protection else {}),
        ),
        st.sets(st.integers(0, 7), min_size=1),
        st.none() | st.integers(0, 5),
        st.integers(0, 5),
        st.booleans(),
        st.booleans(),
        st.none() | st.sampled_from(sorted(PROTECTIONS)),
    ),
    max_size=7,
).map(lambda made: [replace(one, id=id_of(Revision(f"{number:040x}"))) for number, one in enumerate(made)])
volumes = st.builds(
    lambda made, blobs: VolumeFacts(
        tuple(made), {sha256: BlobFacts(*facts) for sha256, facts in zip(BLOBS, blobs, strict=True)}
    ),
    snapshots,
    st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.booleans()), min_size=8, max_size=8),
)


def after(facts: VolumeFacts, planned: EvictionPlan) -> VolumeFacts:
    """The volume once the plan is applied: a blob goes with the last snapshot that names it, unless it cannot."""
    blobs = {sha256: blob for sha256, blob in facts.blobs.items() if sha256 not in planned.orphans}
    left = list(facts.snapshots)
    for removal in planned.remove:
        left.remove(removal.snapshot)
        named = {sha256 for one in left for sha256 in one.blobs}
        for sha256 in removal.snapshot.blobs - named:
            if sha256 in blobs and blobs[sha256].can_free:
                del blobs[sha256]
    return VolumeFacts(tuple(left), blobs)


@given(volumes, st.none() | st.integers(0, 900))
def test_nothing_protected_goes_and_the_budget_is_kept_or_all_else_is_gone(
    facts: VolumeFacts, budget: int | None
) -> None:
    planned = plan(facts, budget_bytes=budget)
    assert not any(removal.snapshot.protection for removal in planned.remove)
    left = after(facts, planned)
    assert planned.frees_bytes == facts.used_bytes - left.used_bytes
    assert planned.left_bytes == left.used_bytes
    removed = {removal.snapshot.id for removal in planned.remove}
    assert sorted([*removed, *(one.id for one, _ in planned.kept)]) == sorted(one.id for one in facts.snapshots)
    assert all(reason for _, reason in planned.kept)
    assert all(removal.reason for removal in planned.remove)
    unprotected = [one for one in left.snapshots if not one.protection]
    assert not any(one.surplus for one in unprotected)
    if planned.over_bytes:  # whatever else may go frees nothing, alone or together
        rest = plan(left, budget_bytes=0)
        assert sum(removal.frees_bytes for removal in rest.remove) == 0
    if budget is None:
        assert all(removal.snapshot.surplus for removal in planned.remove)
    # No removal for the budget was in vain: without any one of them it would not be kept.
    for removal in planned.remove:
        if not removal.snapshot.surplus and not planned.over_bytes:
            others = tuple(one for one in planned.remove if one is not removal)
            assert after(facts, replace(planned, remove=others)).used_bytes > (budget or 0)


@given(volumes, st.integers(0, 900), st.randoms(use_true_random=False))
def test_a_plan_is_the_same_whatever_the_order_of_the_facts(facts: VolumeFacts, budget: int, random: Any) -> None:
    shuffled = list(facts.snapshots)
    random.shuffle(shuffled)
    other = replace(facts, snapshots=tuple(shuffled))
    assert plan(other, budget_bytes=budget) == plan(facts, budget_bytes=budget)
    assert plan_room(other, missing_bytes=budget) == plan_room(facts, missing_bytes=budget)


@given(volumes, st.integers(1, 900))
def test_a_fetch_evicts_only_copies_and_what_retention_does_not_keep(facts: VolumeFacts, missing: int) -> None:
    planned = plan_room(facts, missing_bytes=missing)
    assert all(one.snapshot.copied or one.snapshot.surplus for one in planned.remove)
    assert not any(removal.snapshot.protection for removal in planned.remove)
    left = after(facts, planned)
    assert planned.frees_bytes == facts.used_bytes - left.used_bytes
    assert (planned.frees_bytes >= missing) == (planned.over_bytes == 0)
    if planned.over_bytes:
        assert sum(removal.frees_bytes for removal in plan_room(left, missing_bytes=10**6).remove) == 0


def test_copies_go_first_and_of_them_the_least_recently_used() -> None:
    facts = volume_of(
        snapshot(1, 1, day_of_use=1),
        snapshot(2, 2, day_of_use=9, copied=True),
        snapshot(3, 3, day_of_use=3, copied=True),
        snapshot(4, 4, day_of_use=3, copied=True),
        snapshot(5, 5),
    )
    order = [3, 4, 2, 5, 1]  # one that was never used goes by its publication
    for count in range(6):
        planned = plan(facts, budget_bytes=500 - 100 * count)
        assert numbers(planned) == order[:count]
        assert planned.frees_bytes == 100 * count
    assert [removal.reason for removal in plan(facts, budget_bytes=0).remove] == [
        "the budget; a verified copy is in S3; last used 2026-01-04",
        "the budget; a verified copy is in S3; last used 2026-01-04",
        "the budget; a verified copy is in S3; last used 2026-01-10",
        "the budget; no verified copy in S3; never used, published 2026-01-01",
        "the budget; no verified copy in S3; last used 2026-01-02",
    ]


def test_shared_blobs_are_freed_with_the_last_snapshot_that_names_them() -> None:
    facts = volume_of(snapshot(1, 1, 2, day_of_use=1), snapshot(2, 2, 3, day_of_use=2), snapshot(3, 4), b2=1000)
    planned = plan(facts, budget_bytes=0)
    assert numbers(planned) == [3, 1, 2]
    assert [removal.frees_bytes for removal in planned.remove] == [100, 100, 1100]
    planned = plan(facts, budget_bytes=150)
    assert numbers(planned) == [1, 2]
    assert [removal.frees_bytes for removal in planned.remove] == [100, 1100]


def test_a_snapshot_that_need_not_have_gone_is_kept() -> None:
    facts = volume_of(snapshot(1, 1, day_of_use=1), snapshot(2, 2, day_of_use=2), b1=10, b2=1000)
    planned = plan(facts, budget_bytes=20)
    assert numbers(planned) == [2]
    assert reasons(planned) == {1: "the budget is kept without its removal"}


def test_a_removal_that_frees_nothing_is_not_made() -> None:
    facts = volume_of(snapshot(1, 1, promoted=True), snapshot(2, 1))
    planned = plan(facts, budget_bytes=0)
    assert numbers(planned) == []
    assert planned.over_bytes == 100
    assert reasons(planned) == {
        1: "promoted",
        2: "its removal frees nothing: its files are needed elsewhere, or are new",
    }


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"default": True, "promoted": True}, "the model's default"),
        ({"promoted": True, "pinned": True}, "promoted, pinned"),
        ({"rollback_target": True}, "the target of a rollback"),
        ({"in_use_by": ("process 7 on a", "process 8 on b")}, "in use by process 7 on a; process 8 on b"),
        ({"wanted": True}, "wanted by the catalog"),
        ({"recent": True}, "published less than an hour ago"),
        ({"in_transfer": True}, "its files are being fetched"),
    ],
    ids=["default", "promoted and pinned", "rollback target", "in use", "wanted", "recent", "in transfer"],
)
def test_a_protected_snapshot_is_kept_with_its_reasons(facts: dict[str, Any], reason: str) -> None:
    planned = plan(volume_of(snapshot(1, 1, surplus=True, copied=True, **facts)), budget_bytes=0)
    assert reasons(planned) == {1: reason}
    assert planned.over_bytes == 100
    assert not plan_room(volume_of(snapshot(1, 1, copied=True, **facts)), missing_bytes=1).remove


def test_without_a_budget_only_what_nothing_needs_goes() -> None:
    facts = volume_of(snapshot(1, 1, surplus=True), snapshot(2, 2, copied=True))
    old, young = BLOBS[6], BLOBS[7]
    facts = replace(facts, blobs={**facts.blobs, old: BlobFacts(7, is_old=True), young: BlobFacts(9)})
    planned = plan(facts, budget_bytes=None)
    assert (numbers(planned), dict(planned.orphans)) == ([1], {old: 7})
    assert reasons(planned) == {2: "no budget is set"}
    assert planned.remove[0].reason == "not among the newest of its variant; never used, published 2026-01-01"


def test_while_a_manifest_cannot_be_read_nothing_goes() -> None:
    damaged = "the manifest of org/name:Q8_0"
    facts = replace(volume_of(snapshot(1, 1, surplus=True, copied=True)), unreadable=(damaged,))
    for planned in (plan(facts, budget_bytes=0), plan_room(facts, missing_bytes=1)):
        assert not planned.remove
        assert planned.over_bytes
        assert damaged in reasons(planned)[1]


def test_a_fetch_takes_no_more_than_it_needs_and_says_what_has_no_copy() -> None:
    facts = volume_of(
        snapshot(1, 1, day_of_use=1),
        snapshot(2, 2, day_of_use=2, copied=True),
        snapshot(3, 3, day_of_use=3, copied=True),
    )
    planned = plan_room(facts, missing_bytes=50)
    assert numbers(planned) == [2]
    assert reasons(planned) == {1: "no verified copy in S3", 3: "there is room without its removal"}
    assert plan_room(facts, missing_bytes=201).over_bytes == 1
