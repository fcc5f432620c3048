"""Old revisions go, and what anybody relies on stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.hub import Service
from paddock.errors import InUse
from paddock.lifecycle import promotion
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.pull import pull
from paddock.lifecycle.retention import plan, plan_for, prune
from paddock.model.names import Revision
from tests.support.house import MODEL, NAME, tiny

revisions = [Revision(f"{number:040x}") for number in range(8)]
some = st.sets(st.sampled_from(revisions))
maybe = st.none() | st.sampled_from(revisions)


@given(st.integers(0, 8), st.integers(0, 10), maybe, maybe, some, some)
def test_what_stays_is_the_newest_and_whatever_is_relied_on(
    count: int,
    keep: int,
    promoted: Revision | None,
    before: Revision | None,
    pinned: set[Revision],
    used: set[Revision],
) -> None:
    there = revisions[:count]
    planned = plan(there, keep=keep, promoted=promoted, before=before, pinned=pinned, used=used)
    kept = [revision for revision, _ in planned.kept]
    assert sorted([*kept, *planned.remove]) == there
    needed = {promoted, before, *pinned, *used, *(there[-keep:] if keep else there)} & set(there)
    assert set(kept) == needed
    assert all(reason for _, reason in planned.kept)


def versions(parts: Parts, hub: Service, count: int) -> list[Revision]:
    """So many revisions, each pulled and promoted."""
    pulled = []
    for layers in range(1, count + 1):
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(layers)})
        pulled.append(pull(parts, MODEL).manifest.revision)
    return pulled


def there(parts: Parts) -> list[Revision]:
    return [manifest.revision for manifest in parts.volume.snapshots(MODEL)]


def test_a_pull_leaves_the_newest_revisions_and_says_what_went(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, hub: Service
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "2")
    parts = connect()
    first, second, third = versions(parts, hub, 3)
    assert there(parts) == [second, third]
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(4)})
    pulled = pull(parts, MODEL)
    assert pulled.pruned.removed == (second,)
    assert pulled.pruned.freed_bytes == pulled.to_json()["freed_bytes"] == len(tiny(2))
    assert first not in there(parts)


def test_what_is_pinned_served_promoted_or_next_for_a_rollback_stays(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, hub: Service
) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "0")
    pinned, before, promoted, served, old, newest = versions(connect(), hub, 6)
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    parts = connect()
    parts.volume.pin(MODEL, pinned)
    for revision in (before, promoted):
        promotion.promote(parts, MODEL, revision, reason="a test")
    with parts.volume.lease(MODEL, served):
        assert plan_for(parts, MODEL).remove == (old,)
        assert prune(parts, MODEL).removed == (old,)
    assert there(parts) == [pinned, before, promoted, served, newest]
    assert promotion.rollback(parts, MODEL, reason="a test") == (before, promoted)
    assert prune(parts, MODEL).removed == (promoted, served)


def test_a_pinned_revision_is_not_removed_before_it_is_unpinned(parts: Parts) -> None:
    revision = pull(parts, MODEL).manifest.revision
    parts.volume.pin(MODEL, revision)
    with pytest.raises(InUse, match="is pinned: unpin it first"):
        parts.volume.remove(MODEL)
    assert parts.volume.unpin(MODEL, revision)
    assert not parts.volume.unpin(MODEL, revision)
    assert parts.volume.remove(MODEL) > 0
