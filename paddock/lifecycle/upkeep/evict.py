"""Clean up the volume: remove snapshots and blobs that nothing needs, and more of them down to a budget.

A plan is computed first (`paddock.lifecycle.eviction.plan`), and is all that a dry run does. Where something changed
between the plan and its application, the snapshot stays, and a new plan is made.
"""

from __future__ import annotations

from paddock.errors import StoreRefused, StoreUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.apply import apply
from paddock.lifecycle.eviction.copies import with_copies
from paddock.lifecycle.eviction.evicted import Evicted, EvictionRow
from paddock.lifecycle.eviction.facts import gather
from paddock.lifecycle.eviction.plan import EvictionPlan, plan
from paddock.lifecycle.holdings import share_holdings
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.units import parse_budget

_ROUNDS = 3
"""How often a plan is made and applied, while other processes change what was planned."""


@step(Kind.STORE, "evict", line=lambda evicted: evicted.line)
def evict(clients: Clients, *, keep_bytes: int | None = None, dry_run: bool = False) -> Evicted:
    """Remove what nothing needs from the volume, then what the budget has no room for. `keep_bytes` is the budget for
    its blobs, by default PADDOCK_KEEP_BYTES.

    Raises BadSetting for a catalog that cannot be read, and NoPermission where the volume cannot be written.
    """
    budget_bytes = keep_bytes
    if budget_bytes is None and clients.settings.keep_bytes is not None:
        budget_bytes = parse_budget(clients.settings.keep_bytes, of_bytes=clients.volume.disk.total_bytes())
    if dry_run:
        return _planned_result(clients, *_plan(clients, budget_bytes))
    removed: list[EvictionRow] = []
    orphans = orphan_bytes = 0
    for _ in range(_ROUNDS):
        planned, notes = _plan(clients, budget_bytes)
        orphans += len(planned.orphans)
        orphan_bytes += clients.volume.collect() if planned.orphans else 0
        applied = apply(clients, planned)
        removed += applied.removed
        used_bytes = clients.volume.blob_bytes()
        has_grown = budget_bytes is not None and used_bytes > max(budget_bytes, planned.left_bytes)
        if not applied.skipped and not has_grown:
            break
    if has_grown:
        notes = (*notes, "other processes store files at this moment")
    if removed:
        share_holdings(clients)
    return Evicted(
        where=clients.volume.label,
        plan=planned,
        removed=tuple(removed),
        kept=(*_kept_rows(planned), *applied.skipped),
        freed_bytes=orphan_bytes + sum(row.bytes for row in removed),
        used_bytes=used_bytes,
        budget_bytes=budget_bytes,
        orphans=orphans,
        orphan_bytes=orphan_bytes,
        beside=clients.volume.space.beside(),
        notes=notes,
    )


def _plan(clients: Clients, budget_bytes: int | None) -> tuple[EvictionPlan, tuple[str, ...]]:
    """The plan, and a note where the remote store cannot be asked, so that no copy counts as one. It is asked only if
    the budget requires a choice."""
    facts = gather(clients)
    planned = plan(facts, budget_bytes=budget_bytes)
    if budget_bytes is None or clients.remote is None or planned.needs_no_choice:
        return planned, ()
    try:
        return plan(with_copies(clients, facts), budget_bytes=budget_bytes), ()
    except (StoreUnavailable, StoreRefused) as error:
        return planned, (f"which snapshots have a copy in S3 is not known: {error.message}",)


def _planned_result(clients: Clients, planned: EvictionPlan, notes: tuple[str, ...]) -> Evicted:
    return Evicted(
        where=clients.volume.label,
        plan=planned,
        removed=tuple(EvictionRow(one.snapshot.id, one.frees_bytes, one.reason) for one in planned.remove),
        kept=_kept_rows(planned),
        freed_bytes=planned.frees_bytes,
        used_bytes=planned.left_bytes,
        budget_bytes=planned.limit_bytes,
        orphans=len(planned.orphans),
        orphan_bytes=sum(planned.orphans.values()),
        beside=clients.volume.space.beside(),
        notes=notes,
        is_dry_run=True,
    )


def _kept_rows(planned: EvictionPlan) -> tuple[EvictionRow, ...]:
    return tuple(EvictionRow(snapshot.id, snapshot.size_bytes, reason) for snapshot, reason in planned.kept)
