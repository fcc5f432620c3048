"""Apply the plan of an eviction: remove each snapshot, unless something about it changed since the plan was made."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from paddock.errors import InUse, NotOnVolume, StoreRefused, StoreUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import count_evicted
from paddock.lifecycle.eviction.copies import verified_copies
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.eviction.facts import Fetching, facts_of
from paddock.lifecycle.eviction.plan import EvictionPlan, PlannedRemoval
from paddock.lifecycle.holdings import share_holdings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """The snapshots that were removed, and those that were skipped, each with the reason."""

    removed: tuple[EvictionRow, ...]
    skipped: tuple[EvictionRow, ...]

    @property
    def freed_bytes(self) -> int:
        return sum(row.bytes for row in self.removed)


def apply(clients: Clients, plan: EvictionPlan, *, fetching: Fetching | None = None) -> Applied:
    """Remove the plan's snapshots in its order. Right before each removal its facts are gathered again, and the volume
    looks once more after it made the snapshot invisible (`Volume.evict`)."""
    if any(removal.snapshot.copied for removal in plan.remove):
        share_holdings(clients)  # a clean-up of the remote store puts a copy back that it removed at this moment
    removed, skipped = [], []
    for removal in plan.remove:
        id = removal.snapshot.id
        reason = _changed(clients, removal, fetching)
        try:
            freed_bytes = 0 if reason else clients.volume.evict(id)
        except (InUse, NotOnVolume) as error:
            reason = error.message
        if reason:
            log.info("%s stays: %s", id.short, reason)
            skipped.append(EvictionRow(id, removal.snapshot.size_bytes, reason))
        else:
            log.info("%s was removed: %s", id.short, removal.reason)
            removed.append(EvictionRow(id, freed_bytes, removal.reason))
    count_evicted(clients, "volume", [row.bytes for row in removed])
    return Applied(tuple(removed), tuple(skipped))


def _changed(clients: Clients, removal: PlannedRemoval, fetching: Fetching | None) -> str:
    """Describe why a planned snapshot is not removed now, since it changed; "" if it did not."""
    planned = removal.snapshot
    now = facts_of(clients, planned.id, fetching=fetching)
    if now is None:
        return "another process removed it"
    if now.protection:
        return now.protection
    if now.last_used != planned.last_used:
        return "it was used just now"
    if planned.surplus and not now.surplus:
        return "it is among the newest of its variant now"
    if planned.surplus or not planned.copied:
        return ""
    try:
        is_copied = planned.id in verified_copies(clients, [planned.id])
    except (StoreUnavailable, StoreRefused) as error:
        return f"its copy in S3 cannot be looked at: {error.message}"
    return "" if is_copied else "its copy in S3 is gone, or not verified any more"
