"""Retention removes old revisions, and keeps those that are needed."""

from __future__ import annotations

from itertools import count as counted
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.hub import HubService
from paddock.errors import InUse
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote import promote
from paddock.lifecycle.promote.retention import RetainedSnapshot, plan, plan_for, prune
from paddock.model.names import Revision, Sha256
from paddock.model.reference import Reference, SnapshotId, Variant
from tests.support.stores import Q4, Q8, id_of, publish
from tests.support.tiny_hub import MODEL, NAME, Q4_K_M, Q8_0, tiny_model

ids = [id_of(Revision(f"{number:040x}")) for number in range(8)]
some = st.sets(st.sampled_from(ids))
weights = st.lists(st.integers(0, 3), max_size=8)
"""Of each snapshot, oldest first: few, so that some of them have the same."""


def stored_with(weights: list[int]) -> list[RetainedSnapshot]:
    digests = [frozenset({Sha256(f"{number:064x}")}) for number in weights]
    return [RetainedSnapshot(id, digest) for id, digest in zip(ids, digests, strict=False)]


@given(weights, st.integers(0, 5), some, some, some, some)
def test_a_kept_snapshot_has_the_newest_weights_or_is_needed(
    numbers: list[int],
    keep: int,
    promoted: set[SnapshotId],
    earlier: set[SnapshotId],
    pinned: set[SnapshotId],
    used: set[SnapshotId],
) -> None:
    stored = stored_with(numbers)
    planned = plan(stored, keep=keep, promoted=promoted, earlier=earlier, pinned=pinned, used=used)
    kept = [id for id, _ in planned.kept]
    assert sorted([*kept, *planned.remove]) == [one.id for one in stored]
    newest = list(dict.fromkeys(reversed(numbers)))[: keep or None]
    of_newest = {one.id for one, number in zip(stored, numbers, strict=True) if number in newest}
    needed = (promoted | earlier | pinned | used) & {one.id for one in stored}
    assert set(kept) == needed | of_newest
    assert all(reason for _, reason in planned.kept)


@pytest.mark.parametrize(
    ("numbers", "kept"),
    [
        ([1, 2, 3, 4], [2, 3]),
        ([1, 2, 2, 2], [0, 1, 2, 3]),
        ([1, 2, 3, 3, 3], [1, 2, 3, 4]),
        ([1, 2, 3, 1], [0, 2, 3]),
    ],
    ids=["each its own", "only the card changed", "older weights go", "weights that came back"],
)
def test_commits_with_the_same_weights_count_once(numbers: list[int], kept: list[int]) -> None:
    planned = plan(stored_with(numbers), keep=2, promoted=(), earlier=(), pinned=(), used=())
    assert [id for id, _ in planned.kept] == [ids[number] for number in kept]
    assert {reason for _, reason in planned.kept} == {"one of the 2 newest"}


SECONDS = counted()


def versions(clients: Clients, hub: HubService, count: int, variant: Variant = Q8) -> list[SnapshotId]:
    """So many revisions of a variant, each published and promoted, and the old ones pruned, as by a pull: that would
    start two processes for each."""
    kind = {Q8: Q8_0, Q4: Q4_K_M}[variant]
    clients.volume.prepare()
    made = []
    for layers in range(1, count + 1):
        content = {f"tiny-{variant}.gguf": tiny_model(layers, file_type=kind)}
        revision = Revision(hub.repository(NAME).commit(dict(content)))
        manifest = publish(clients.volume, revision, content, Path(), model=MODEL, variant=variant, age_s=next(SECONDS))
        clients.volume.promote(manifest.id, reason="a test")
        prune(clients, MODEL, variant)
        made.append(manifest.id)
    return made


def stored_ids(clients: Clients) -> list[SnapshotId]:
    return [manifest.id for manifest in clients.volume.snapshots(MODEL)]


def test_a_pull_removes_old_revisions_and_names_them(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "2")
    clients = connect()
    first, second, third = versions(clients, hub, 3)
    assert stored_ids(clients) == [second, third]
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(4)})
    pulled = pull(clients, Reference(MODEL))
    assert pulled.pruned.removed == (second,)
    payload = pulled.to_json()
    assert payload["removed"] == [{"model": NAME, "revision": second.revision, "variant": "Q8_0"}]
    assert pulled.pruned.freed_bytes == payload["freed_bytes"] == len(tiny_model(2))
    assert first not in stored_ids(clients)


def test_a_pull_leaves_the_other_variants_alone_whatever_their_age(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "0")
    fours = versions(connect(), hub, 3, Q4)
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    clients = connect()
    *older, before, newest = versions(clients, hub, 4)
    assert stored_ids(clients) == [*fours, before, newest], "the one before is the target of a rollback"
    assert set(older).isdisjoint(stored_ids(clients))
    assert plan_for(clients, MODEL, Q4).remove == (fours[0],)


def test_commits_with_unchanged_weights_do_not_push_out_older_weights(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "2")
    clients = connect()
    old, new = versions(clients, hub, 2)
    for number in range(3):
        hub.repository(NAME).commit({"README.md": f"# Edited {number}".encode()})
        assert pull(clients, Reference(MODEL)).pruned.removed == ()
    assert [old, new] == stored_ids(clients)[:2]
    assert len(stored_ids(clients)) == 5


def test_pinned_served_promoted_snapshots_and_rollback_targets_are_kept(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "0")
    pinned, before, promoted, served, old, newest = versions(connect(), hub, 6)
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    clients = connect()
    clients.volume.pins.add(pinned)
    for id in (before, promoted):
        promote.promote_snapshot(clients, id, reason="a test")
    with clients.volume.lease(served):
        assert plan_for(clients, MODEL, Q8).remove == (old,)
        assert prune(clients, MODEL, Q8).removed == (old,)
    assert stored_ids(clients) == [pinned, before, promoted, served, newest]
    back = promote.roll_back(clients, Reference(MODEL), reason="a test")
    assert (back.revision, back.previous) == (before.revision, promoted.revision)
    # The next one goes back to what was promoted before `before` was promoted again.
    assert clients.volume.promotions.rollback_target(MODEL) == newest
    assert prune(clients, MODEL, Q8).removed == (promoted, served)


def test_the_rollback_targets_of_the_model_and_of_a_variant_are_kept(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "0")
    first, second, third = versions(connect(), hub, 3)
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    clients = connect()
    four = pull(clients, Reference(MODEL, Q4)).manifest.id
    assert clients.volume.promotions.rollback_target(MODEL) == third
    assert clients.volume.promotions.rollback_target(MODEL, Q8) == second
    kept = dict(plan_for(clients, MODEL, Q8).kept)
    assert kept == {second: "the target of a rollback", third: "promoted"}
    assert prune(clients, MODEL, Q8).removed == (first,)
    assert stored_ids(clients) == [second, third, four]


def test_a_pinned_revision_is_not_removed_before_it_is_unpinned(clients: Clients) -> None:
    id = pull(clients, Reference(MODEL)).manifest.id
    clients.volume.pins.add(id)
    with pytest.raises(InUse, match="is pinned: unpin it first"):
        clients.volume.remove(MODEL)
    assert clients.volume.pins.remove(id)
    assert not clients.volume.pins.remove(id)
    removed, freed_bytes = clients.volume.remove(MODEL)
    assert removed == [id]
    assert freed_bytes > len(tiny_model())
