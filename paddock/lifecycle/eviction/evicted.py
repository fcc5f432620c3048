"""The result of an eviction: what was removed or would be, and what is kept, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock.lifecycle.eviction.plan import EvictionPlan
from paddock.model.reference import SnapshotId
from paddock.model.units import human_bytes


@dataclass(frozen=True, slots=True)
class EvictionRow:
    """A snapshot that was removed, with the bytes that this freed; or one that is kept, with its size."""

    id: SnapshotId
    bytes: int
    reason: str

    @property
    def line(self) -> str:
        """The sentence on a snapshot that was removed."""
        return f"{self.id.short} was evicted, {human_bytes(self.bytes)} freed: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.id.model),
            "revision": self.id.revision,
            "variant": self.id.variant,
            "bytes": self.bytes,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Evicted:
    """The result of a clean-up of the store with the label `where`. `is_dry_run`: nothing was removed, and the rest is
    what would be.

    `orphans` are the number of blobs without a snapshot that were removed, `orphan_bytes` their size, `pending_bytes`
    that of blobs which are removed once their grace period is over. `used_bytes` are those of the blobs that stay;
    `over_bytes` of them exceed the budget. `beside` is the size of what is stored beside the blobs, by its name;
    `notes` are sentences on what could not be found out.
    """

    where: str
    plan: EvictionPlan | None
    removed: tuple[EvictionRow, ...]
    kept: tuple[EvictionRow, ...]
    freed_bytes: int
    used_bytes: int
    budget_bytes: int | None = None
    orphans: int = 0
    orphan_bytes: int = 0
    pending_bytes: int = 0
    beside: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_dry_run: bool = False

    @property
    def over_bytes(self) -> int:
        return 0 if self.budget_bytes is None else max(0, self.used_bytes - self.budget_bytes)

    @property
    def line(self) -> str:
        count = len(self.removed)
        snapshots = f"{count} snapshot{'' if count == 1 else 's'}"
        if self.orphans:
            snapshots += f" and {self.orphans} blob{'' if self.orphans == 1 else 's'} without a snapshot"
        would = "would be " if self.is_dry_run else ""
        parts = [f"{self.where}: {snapshots} {would}removed, {human_bytes(self.freed_bytes)} {would}freed"]
        budget = "" if self.budget_bytes is None else f" of a budget of {human_bytes(self.budget_bytes)}"
        parts.append(f"{human_bytes(self.used_bytes)}{budget} {'would be used' if self.is_dry_run else 'are used'}")
        if self.pending_bytes:
            parts.append(f"{human_bytes(self.pending_bytes)} more go when their grace period is over")
        if self.over_bytes:
            parts.append(f"{human_bytes(self.over_bytes)} over the budget, since nothing else may be removed")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "removed": [row.to_json() for row in self.removed],
            "orphaned_blobs": self.orphans,
            "orphaned_bytes": self.orphan_bytes,
            "freed_bytes": self.freed_bytes,
            "kept": [row.to_json() for row in self.kept],
            "pending_bytes": self.pending_bytes,
            "used_bytes": self.used_bytes,
            "budget_bytes": self.budget_bytes,
            "over_bytes": self.over_bytes,
            "beside": dict(self.beside),
            "notes": list(self.notes),
            "dry_run": self.is_dry_run,
        }
