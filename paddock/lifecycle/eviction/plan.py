"""Plan which snapshots are removed from the volume: pure functions of facts that were gathered before.

`plan` is for a clean-up to a budget, `plan_room` for a fetch that lacks space. A *protected* snapshot is never removed
(`SnapshotFacts.protection`). The others go in this order, until there is enough room:

| | clean-up | fetch |
|---|---|---|
| 1 | orphaned blobs that are old | |
| 2 | snapshots that retention does not keep, in any case | those, as far as needed |
| 3 | with a verified copy in S3 | with a verified copy in S3 |
| 4 | without | |

Within each the least recently used goes first; ties are decided by the snapshot's id. Snapshots share blobs, so that a
removal frees what no other snapshot names, and may free nothing until another one goes too. A snapshot of 3 or 4 that
need not have gone, since the removals after it free enough, is kept after all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId

WITHIN_BUDGET = "the budget is kept without its removal"
NO_BUDGET = "no budget is set"
FREES_NOTHING = "its removal frees nothing: its files are needed elsewhere, or are new"
NO_COPY = "no verified copy in S3"
ENOUGH = "there is room without its removal"


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """A stored blob. `can_free` is False where its removal would free nothing or it is about to be used: it has links
    outside of the volume's snapshots, or was written or renewed in the last hour. `is_old`: older than an orphan may
    become."""

    size_bytes: int
    can_free: bool = True
    is_old: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """A snapshot on the volume.

    `wanted`: the catalog wants its variant, and it is the newest of it. `recent`: it was published in the last hour,
    and may be about to be promoted. `in_transfer`: a fetch of one of its files is under way. `surplus`: retention does
    not keep it. `copied`: the remote store has it, with each blob as it was verified there; None: it is one in the
    remote store. `held_by` are the volumes that have it, `rejected`: its validation rejected it.
    """

    id: SnapshotId
    blobs: frozenset[Sha256]
    size_bytes: int
    created_at: datetime
    last_used: datetime | None = None
    default: bool = False
    promoted: bool = False
    rollback_target: bool = False
    pinned: bool = False
    in_use_by: tuple[str, ...] = ()
    wanted: bool = False
    recent: bool = False
    in_transfer: bool = False
    held_by: tuple[str, ...] = ()
    used_lately: bool = False
    surplus: bool = False
    rejected: bool = False
    copied: bool | None = False

    @property
    def protection(self) -> str:
        """Why it is never removed, or ""."""
        reasons = (
            (self.default, "the model's default"),
            (self.promoted and not self.default, "promoted"),
            (self.rollback_target, "the target of a rollback"),
            (self.pinned, "pinned"),
            (bool(self.in_use_by), f"in use by {'; '.join(self.in_use_by)}"),
            (self.wanted, "wanted by the catalog"),
            (self.in_transfer, "its files are being fetched"),
            (self.recent, "published less than an hour ago"),
            (bool(self.held_by), f"on {', on '.join(self.held_by)}"),
            (self.used_lately, "used in the last week"),
        )
        return ", ".join(reason for holds, reason in reasons if holds)

    @property
    def since(self) -> datetime:
        """The time that decides which snapshot goes first: of its last use, or of its publication."""
        return self.last_used or self.created_at

    @property
    def age(self) -> str:
        day = self.since.astimezone(UTC).date().isoformat()
        return f"last used {day}" if self.last_used else f"never used, published {day}"


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """The snapshots and blobs of a volume. `unreadable` is what cannot be read, such as a manifest: it may name any
    blob, so that none is removed."""

    snapshots: tuple[SnapshotFacts, ...]
    blobs: Mapping[Sha256, BlobFacts]
    unreadable: tuple[str, ...] = ()

    @property
    def used_bytes(self) -> int:
        """The bytes of all blobs, each counted once."""
        return sum(blob.size_bytes for blob in self.blobs.values())


@dataclass(frozen=True, slots=True)
class PlannedRemoval:
    """A snapshot to remove, after those before it in the plan. `frees_bytes`: those of its blobs that no snapshot names
    then."""

    snapshot: SnapshotFacts
    frees_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """The removals in their order, the old orphaned blobs, and the snapshots that are kept, each with the reason.
    `limit_bytes` is what may stay; None: there is no limit."""

    used_bytes: int
    limit_bytes: int | None
    remove: tuple[PlannedRemoval, ...] = ()
    orphans: Mapping[Sha256, int] = field(default_factory=dict)
    kept: tuple[tuple[SnapshotFacts, str], ...] = ()

    @property
    def frees_bytes(self) -> int:
        return sum(self.orphans.values()) + sum(removal.frees_bytes for removal in self.remove)

    @property
    def left_bytes(self) -> int:
        return self.used_bytes - self.frees_bytes

    @property
    def needs_no_choice(self) -> bool:
        """Whether no snapshot goes but those that retention does not keep."""
        return all(removal.snapshot.surplus for removal in self.remove)

    @property
    def over_bytes(self) -> int:
        """By how much the limit is missed."""
        return 0 if self.limit_bytes is None else max(0, self.left_bytes - self.limit_bytes)


def plan(facts: VolumeFacts, *, budget_bytes: int | None) -> EvictionPlan:
    """Plan a clean-up to `budget_bytes` of blobs; with None, only what nothing needs goes."""
    if facts.unreadable:
        return _nothing(facts, budget_bytes)
    named = {sha256 for snapshot in facts.snapshots for sha256 in snapshot.blobs}
    orphans = {
        sha256: blob.size_bytes
        for sha256, blob in sorted(facts.blobs.items())
        if blob.is_old and blob.can_free and sha256 not in named
    }
    space = _Space(facts, facts.used_bytes - sum(orphans.values()))
    surplus = _by_use(one for one in facts.snapshots if one.surplus and not one.protection)
    for snapshot in surplus:
        space.remove(snapshot)
    chosen: list[SnapshotFacts] = []
    if budget_bytes is not None:
        others = [one for one in facts.snapshots if not one.surplus and not one.protection]
        first = [one for one in others if one.copied or one.rejected]
        ordered = [*_by_use(first), *_by_use(one for one in others if one not in first)]
        chosen = _choose(space, ordered, budget_bytes)
    is_over = budget_bytes is not None and space.used_bytes > budget_bytes
    left = NO_BUDGET if budget_bytes is None else FREES_NOTHING if is_over else WITHIN_BUDGET
    remove = _removals(facts, [*surplus, *chosen], "the budget")
    return EvictionPlan(facts.used_bytes, budget_bytes, remove, orphans, _kept(facts, remove, lambda _: left))


def plan_room(facts: VolumeFacts, *, missing_bytes: int) -> EvictionPlan:
    """Plan to free `missing_bytes` for a fetch, by removing only what retention does not keep, and what has a verified
    copy in the remote store. If that is not enough, `over_bytes` says how much is missing."""
    limit_bytes = facts.used_bytes - missing_bytes
    if facts.unreadable:
        return _nothing(facts, limit_bytes)
    space = _Space(facts, facts.used_bytes)
    free = [one for one in facts.snapshots if not one.protection]
    ordered = [*_by_use(one for one in free if one.surplus), *_by_use(one for one in free if not one.surplus)]
    chosen = _choose(space, [one for one in ordered if one.surplus or one.copied], limit_bytes)
    remove = _removals(facts, chosen, "a fetch needs room")
    left = FREES_NOTHING if space.used_bytes > limit_bytes else ENOUGH
    return EvictionPlan(
        facts.used_bytes,
        limit_bytes,
        remove,
        kept=_kept(facts, remove, lambda one: left if one.surplus or one.copied else NO_COPY),
    )


class _Space:
    """The bytes of the blobs, while snapshots go and come back."""

    def __init__(self, facts: VolumeFacts, used_bytes: int) -> None:
        self.used_bytes = used_bytes
        self._blobs = facts.blobs
        self._named = Counter(sha256 for snapshot in facts.snapshots for sha256 in snapshot.blobs)

    def remove(self, snapshot: SnapshotFacts) -> int:
        """Remove a snapshot, and return the bytes that this frees."""
        self._named.subtract(snapshot.blobs)
        freed_bytes = self._unnamed_bytes(snapshot)
        self.used_bytes -= freed_bytes
        return freed_bytes

    def restore_cost(self, snapshot: SnapshotFacts) -> int:
        """The bytes that a removed snapshot would take again."""
        return self._unnamed_bytes(snapshot)

    def restore(self, snapshot: SnapshotFacts) -> None:
        self.used_bytes += self._unnamed_bytes(snapshot)
        self._named.update(snapshot.blobs)

    def _unnamed_bytes(self, snapshot: SnapshotFacts) -> int:
        unnamed = (sha256 for sha256 in snapshot.blobs if sha256 in self._blobs and not self._named[sha256])
        return sum(self._blobs[sha256].size_bytes for sha256 in unnamed if self._blobs[sha256].can_free)


def _by_use(snapshots: Iterable[SnapshotFacts]) -> list[SnapshotFacts]:
    """The least recently used first."""
    return sorted(snapshots, key=lambda one: (one.since, one.id))


def _choose(space: _Space, ordered: Sequence[SnapshotFacts], limit_bytes: int) -> list[SnapshotFacts]:
    """Remove snapshots in this order until at most `limit_bytes` are used, then keep those after all, the last first,
    without which no more is used than that, or than is possible."""
    chosen: list[SnapshotFacts] = []
    for snapshot in ordered:
        if space.used_bytes <= limit_bytes:
            break
        space.remove(snapshot)
        chosen.append(snapshot)
    limit_bytes = max(limit_bytes, space.used_bytes)
    for snapshot in reversed(tuple(chosen)):
        if space.used_bytes + space.restore_cost(snapshot) <= limit_bytes:
            space.restore(snapshot)
            chosen.remove(snapshot)
    return chosen


def _removals(facts: VolumeFacts, chosen: Sequence[SnapshotFacts], why: str) -> tuple[PlannedRemoval, ...]:
    space = _Space(facts, facts.used_bytes)
    return tuple(PlannedRemoval(one, space.remove(one), _reason(one, why)) for one in chosen)


def _reason(snapshot: SnapshotFacts, why: str) -> str:
    if snapshot.surplus:
        return f"not among the newest of its variant; {snapshot.age}"
    copy = "a verified copy is in S3" if snapshot.copied else NO_COPY
    parts = (why, "" if snapshot.copied is None else copy, "rejected" if snapshot.rejected else "", snapshot.age)
    return "; ".join(part for part in parts if part)


def _kept(
    facts: VolumeFacts, removed: Collection[PlannedRemoval], left: Callable[[SnapshotFacts], str]
) -> tuple[tuple[SnapshotFacts, str], ...]:
    gone = {removal.snapshot.id for removal in removed}
    kept = sorted((one for one in facts.snapshots if one.id not in gone), key=lambda one: one.id)
    return tuple((one, one.protection or left(one)) for one in kept)


def _nothing(facts: VolumeFacts, limit_bytes: int | None) -> EvictionPlan:
    """Nothing is removed, since what cannot be read may name any blob."""
    reason = f"no blob can be freed: {', '.join(facts.unreadable)} cannot be read"
    return EvictionPlan(facts.used_bytes, limit_bytes, kept=_kept(facts, (), lambda _: reason))
