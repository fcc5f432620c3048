"""Find out what a refresh is planned from: what the Hub has, against what is held and promoted. Changes nothing.

The volume is read once for all entries, and each channel costs the Hub one request. What is left undecided then has
moved, or is new: only of those the files are listed, and only where the files differ a header is read.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Final

from paddock.engine.facts import engine_build, engine_version
from paddock.errors import CorruptFile, EngineTooOld, PaddockError
from paddock.lifecycle.catalog import Catalog, CatalogEntry
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.bounds import bounds_with
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.lifecycle.upkeep.refresh.decide import EntryFacts, by_files, by_head, by_header, without_conflicts
from paddock.lifecycle.upkeep.refresh.heads import Branch, read_heads, read_listings
from paddock.lifecycle.upkeep.refresh.offers import context_of, find_offer, header_difference, require_access
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry, RefreshPlan
from paddock.lifecycle.upkeep.refresh.record import EntryRecord, Fingerprint, read_records
from paddock.model.artifact import BranchHead, Listing
from paddock.model.hardware import this_machine
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId, same_variant
from paddock.planning.targets import THIS_MACHINE
from paddock.store.history import Promoted, Promotion

_READERS: Final = 4
"""Headers that are read at a time. Each may cost a second of the engine."""
_History = tuple[Promoted, Sequence[Promotion]] | PaddockError


@step(Kind.HUB, "plan-refresh", line=lambda plan: plan.line)
def plan_refresh(clients: Clients, catalog: Catalog) -> RefreshPlan:
    """Plan what a refresh does for each entry of a catalog. Changes nothing.

    An entry that cannot be planned is `withdrawn` or `blocked`, with the reason. Raises StoreUnavailable and
    NoPermission where the volume cannot be read.
    """
    began = time.monotonic()
    heads = read_heads(clients.hub, [(entry.model, entry.channel) for entry in catalog.entries])
    facts = _gather(clients, catalog, heads)
    decided = {number: by_head(one) for number, one in enumerate(facts)}
    moved = {number: facts[number] for number, planned in decided.items() if planned is None}
    listings = read_listings(clients.hub, [_commit(one) for one in moved.values()])

    def plan_moved(one: EntryFacts) -> tuple[PlannedEntry, int]:
        return _plan_moved(clients, one, listings[_commit(one)])

    with ThreadPoolExecutor(_READERS, thread_name_prefix="paddock-plan") as pool:
        results = dict(zip(moved, pool.map(plan_moved, moved.values()), strict=True))
    entries = [decided[number] or results[number][0] for number in range(len(facts))]
    return RefreshPlan(
        entries=without_conflicts(entries),
        catalog=catalog.name,
        requests=len(heads) + len(listings),
        bytes_read=sum(bytes_read for _, bytes_read in results.values()),
        seconds=time.monotonic() - began,
    )


def _plan_moved(clients: Clients, facts: EntryFacts, listing: Listing | PaddockError) -> tuple[PlannedEntry, int]:
    """(the plan of an entry whose commit moved, or that is new; the bytes of model files that were read for it)."""
    if isinstance(listing, PaddockError):
        return facts.refused(listing), 0
    try:
        offer = find_offer(clients, facts, listing)
        planned, bytes_read = by_files(facts, offer.offered), offer.bytes_read
        if planned is None:
            difference, header_bytes = header_difference(clients, offer)
            planned = by_header(facts, offer.offered, difference, header_bytes=header_bytes)
            bytes_read += header_bytes
        if planned.changes:
            require_access(clients, offer)
    except PaddockError as error:
        return facts.refused(error), 0
    return planned, bytes_read


def _commit(facts: EntryFacts) -> Branch:
    if not isinstance(facts.head, BranchHead):
        raise AssertionError("an entry without a commit is decided")  # noqa: TRY004 - not the caller's mistake
    return facts.head.model, facts.head.revision


def _gather(
    clients: Clients, catalog: Catalog, heads: Mapping[Branch, BranchHead | PaddockError]
) -> Sequence[EntryFacts]:
    """The facts of each entry that cost the Hub nothing more. What cannot be read of the volume stands for the commit,
    so that the entry is blocked."""
    states = clients.volume.promotions.of_each([entry.model for entry in catalog.entries])
    records = read_records(clients, catalog)
    fingerprints = _Fingerprints()
    movers = _default_movers(catalog.entries)

    def facts_of(entry: CatalogEntry) -> EntryFacts:
        try:
            return _facts(
                clients,
                entry,
                heads[entry.model, entry.channel],
                states[entry.model],
                records.get(entry.key),
                fingerprint=fingerprints.of(entry),
                moves_default=entry.key in movers,
            )
        except PaddockError as error:  # of the volume, for this model alone
            return EntryFacts(entry, error, Promoted(entry.model))

    return [facts_of(entry) for entry in catalog.entries]


def _facts(
    clients: Clients,
    entry: CatalogEntry,
    head: BranchHead | PaddockError,
    state: _History,
    record: EntryRecord | None,
    *,
    fingerprint: Fingerprint,
    moves_default: bool,
) -> EntryFacts:
    if isinstance(state, PaddockError):
        raise state
    promoted, history = state
    if isinstance(head, BranchHead) and same_variant(str(head.model), str(entry.model)) and not promoted.revisions:
        promoted = Promoted(head.model)  # the Hub's own spelling, which is to be its name on the volume
    stored = [id for id in promoted.ids if clients.volume.age_s(id) is not None]
    facts = EntryFacts(
        entry=entry,
        head=head,
        promoted=promoted,
        history=history,
        stored=stored,
        record=record,
        fingerprint=fingerprint,
        moves_default=moves_default,
    )
    if facts.id is None or (record and record.measured_with):
        return facts
    return replace(facts, measured_with=_published_with(clients, facts.id))


def _published_with(clients: Clients, id: SnapshotId) -> str:
    """The version of the engine that a snapshot was published with; "" where its manifest cannot be read."""
    try:
        manifest = clients.volume.snapshot(id)
    except CorruptFile:
        return ""
    return manifest.engine_version if manifest else ""


def _default_movers(entries: Collection[CatalogEntry]) -> set[tuple[str, str, str, str]]:
    """The keys of the entries that move the default of their model: one that says so, or the model's only one."""
    counts = Counter(_name(entry.model) for entry in entries)
    return {entry.key for entry in entries if entry.default or counts[_name(entry.model)] == 1}


def _name(model: ModelName) -> str:
    return str(model).casefold()


class _Fingerprints:
    """Makes the fingerprints of entries, of one engine and one machine."""

    def __init__(self) -> None:
        self._engine = _engine()
        self._machine = this_machine().identity

    def of(self, entry: CatalogEntry) -> Fingerprint:
        target, context = entry.target.strip().lower(), context_of(entry)
        gates = [
            asdict(bounds_with({str(gate): bound for gate, bound in entry.gates.items()})),
            entry.undecided,
            entry.profile,
            context,
        ]
        fit = [target, self._machine if target == THIS_MACHINE else "", context]
        return Fingerprint(_digest(gates), self._engine, _digest(fit))


def _engine() -> str:
    """The version and build of the engine; "" where it is not installed, or too old."""
    try:
        return f"{engine_version()} {engine_build()}"
    except EngineTooOld:
        return ""


def _digest(facts: Sequence[object]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
