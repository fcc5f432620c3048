"""Refresh: make what is promoted follow the catalog.

The plan is made first, and then carried out: each changed entry by itself, several at a time. A model that is worse
than what serves, or broken, is held back, and the promoted one stays. At its end a refresh writes its report, and fails
where an entry failed that the catalog requires.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from paddock.errors import PaddockError, RefreshFailed
from paddock.lifecycle.catalog import Catalog, require_catalog
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.run.engine_change import promoted_with_other_engines
from paddock.lifecycle.steps import Runner, step
from paddock.lifecycle.upkeep import volume_use
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.last_runs import RefreshRecord, store_refresh
from paddock.lifecycle.upkeep.refresh.approval import unpromoted_record, waits
from paddock.lifecycle.upkeep.refresh.change import is_served
from paddock.lifecycle.upkeep.refresh.entries import EntryPhases, carry_out
from paddock.lifecycle.upkeep.refresh.facts import plan_refresh
from paddock.lifecycle.upkeep.refresh.heads import answers_again
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import Action, PlannedEntry, RefreshPlan
from paddock.lifecycle.upkeep.refresh.record import record_of, store_record
from paddock.lifecycle.upkeep.refresh.report import Surroundings, entry_table, write_report
from paddock.model.units import counted, human_bytes

_LOG = logging.getLogger(__name__)
_IN_MESSAGE = 5
_RECORDED = frozenset(
    {
        RefreshOutcome.RETAGGED,
        RefreshOutcome.PROMOTED,
        RefreshOutcome.HELD_BACK,
        RefreshOutcome.WAITING,
        RefreshOutcome.MEASURED,
    }
)
"""Outcomes that the next refresh goes by. After any other one it tries the entry again."""
_LONG_S = 120.0
"""An entry that the Hub blocked after a longer time had the long retries of a transfer, and is not tried once more."""


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """A refresh to do. `catalog` is a file, or an object in S3; None: that of the settings. `dry_run`: only plan."""

    catalog: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of a refresh: its plan, the outcome of each entry in the order of the catalog (none of a dry run), and
    the paths of its report. `held_by` is set where another process was refreshing the volume, and nothing was done."""

    plan: RefreshPlan | None = None
    entries: tuple[EntryOutcome, ...] = ()
    markdown: str = ""
    report: str | None = None
    remote_report: str | None = None
    held_by: str | None = None
    seconds: float = 0.0

    @property
    def failures(self) -> tuple[EntryOutcome, ...]:
        """The entries that the catalog requires, and that failed."""
        return tuple(outcome for outcome in self.entries if outcome.required and outcome.has_failed)

    @property
    def line(self) -> str:
        if self.held_by is not None:
            return f"nothing was done: the catalog is being refreshed by {self.held_by}"
        if self.plan is None or not self.plan.entries:
            return "nothing is wanted: the catalog has no entries"
        return summary(self.entries) if self.entries else self.plan.line

    def to_json(self) -> dict[str, Any]:
        planned = self.plan.to_json() if self.plan else {"catalog": None, "entries": []}
        entries = [outcome.to_json() for outcome in self.entries] or planned["entries"]
        return {
            **planned,
            "entries": entries,
            "bytes": sum(outcome.bytes or 0 for outcome in self.entries) if self.entries else planned.get("bytes", 0),
            "report": self.report,
            "held_by": self.held_by,
            "seconds": round(self.seconds, 3),
        }


def summary(outcomes: Sequence[EntryOutcome]) -> str:
    """`5 entries: 3 unchanged, 1 retagged, 1 held back; 12.0 MiB fetched`."""
    counts = Counter(outcome.outcome for outcome in outcomes)
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in RefreshOutcome if counts[outcome]]
    fetched = human_bytes(sum(outcome.bytes or 0 for outcome in outcomes))
    return f"{counted(len(outcomes), 'entry', 'entries')}: {', '.join(parts)}; {fetched} of model data fetched"


def refresh(
    runner: Runner,
    request: RefreshRequest,
    entries: EntryPhases,
    *,
    on_plan: Callable[[RefreshPlan], None] = lambda _: None,
    on_outcome: Callable[[EntryOutcome], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Refreshed:
    """Plan a refresh, and carry it out. Does nothing while another process refreshes the volume. The clients of
    `runner` have the request's catalog (`connect_with`). `on_outcome` is called in any thread, and a second time for an
    entry that the Hub blocked, and that is carried out once more at the end, if the Hub answers again.

    Raises RefreshFailed at its end where a required entry failed, BadCatalog and NoSuchFile for the catalog, and
    NoPermission where the volume cannot be written.
    """
    began, clients = time.monotonic(), runner.clients
    catalog = require_catalog(clients.settings, request.catalog)
    if request.dry_run:
        plan = runner.run(plan_refresh, catalog)
        on_plan(plan)
        return Refreshed(plan, seconds=time.monotonic() - began)
    clients.volume.prepare()
    with clients.volume.refresh_lock.hold() as held_by:
        if held_by:
            return Refreshed(held_by=held_by)
        refreshed = _refresh(runner, catalog, entries, on_plan=on_plan, on_outcome=on_outcome, sleep=sleep)
    refreshed = replace(refreshed, seconds=time.monotonic() - began)
    if refreshed.failures:
        raise failed(refreshed)
    return refreshed


def failed(refreshed: Refreshed) -> RefreshFailed:
    """The error of a refresh in which required entries failed."""
    count, all_entries = len(refreshed.failures), counted(len(refreshed.entries), "entry", "entries")
    reasons = "; ".join(f"{one.name} is {one.outcome.value}: {one.reason}" for one in refreshed.failures[:_IN_MESSAGE])
    more = f"; and {count - _IN_MESSAGE} more" if count > _IN_MESSAGE else ""
    error = RefreshFailed(
        f"{count} of {all_entries} failed that the catalog requires, and the others were carried out: {reasons}{more}",
        cure="do what is said there, then run the refresh again",
    )
    error.table, error.refreshed = entry_table(refreshed.failures), refreshed
    return error


def _refresh(
    runner: Runner,
    catalog: Catalog,
    entries: EntryPhases,
    *,
    on_plan: Callable[[RefreshPlan], None],
    on_outcome: Callable[[EntryOutcome], None],
    sleep: Callable[[float], None],
) -> Refreshed:
    plan = runner.run(plan_refresh, catalog)
    on_plan(plan)
    clients = runner.clients
    outcomes = {position: outcome_of_plan(clients, planned) for position, planned in enumerate(plan.entries)}
    to_do = {id(one): position for position, one in enumerate(plan.entries) if _is_to_do(clients, one)}
    _remember(clients, [planned for planned in plan.entries if planned.remember and id(planned) not in to_do])

    def ended(planned: PlannedEntry, outcome: EntryOutcome) -> None:
        standing = outcomes[to_do[id(planned)]]
        if outcome.outcome in _RECORDED or standing.outcome is RefreshOutcome.WAITING:
            _record(clients, planned, outcome)
        outcome = outcomes[to_do[id(planned)]] = _beside(standing, outcome)
        on_outcome(outcome)

    carry_out(clients, entries, [planned for planned in plan.entries if id(planned) in to_do], on_outcome=ended)
    blocked = [one for one in plan.changed if _may_end_soon(outcomes[to_do[id(one)]])]
    if blocked and answers_again(clients.hub, (blocked[0].model, blocked[0].entry.channel), sleep=sleep):
        carry_out(clients, entries, blocked, on_outcome=ended)
    refreshed = Refreshed(plan, tuple(outcomes[position] for position in range(len(plan.entries))))
    return runner.run(report_refresh, refreshed)


def _may_end_soon(outcome: EntryOutcome) -> bool:
    """Whether what blocked an entry that was carried out may be over: the Hub limits requests for a minute, or is
    started anew."""
    return outcome.outcome is RefreshOutcome.BLOCKED and outcome.seconds < _LONG_S


def _is_to_do(clients: Clients, planned: PlannedEntry) -> bool:
    return planned.changes or planned.measure or waits(clients, planned)


def outcome_of_plan(clients: Clients, planned: PlannedEntry) -> EntryOutcome:
    """The outcome of an entry for which nothing is to be done. What was held back, rolled back, or waits, still is not
    promoted."""
    if planned.action is Action.WITHDRAWN:
        return EntryOutcome.of(planned, RefreshOutcome.WITHDRAWN)
    if planned.rolled_back:
        return EntryOutcome.of(planned, RefreshOutcome.HELD_BACK)
    if (record := unpromoted_record(clients, planned)) is not None:
        standing = replace(planned, reason=f"{record.outcome} since {record.day}")
        return EntryOutcome.of(
            standing, RefreshOutcome(record.outcome), record.reason, is_served=is_served(clients, planned)
        )
    return EntryOutcome.of(
        planned, RefreshOutcome.BLOCKED if planned.action is Action.BLOCKED else RefreshOutcome.UNCHANGED
    )


def _beside(standing: EntryOutcome, outcome: EntryOutcome) -> EntryOutcome:
    """The outcome of an entry that was only measured anew, where it is withdrawn, blocked, held back or waits."""
    if outcome.outcome is not RefreshOutcome.MEASURED or standing.outcome is RefreshOutcome.UNCHANGED:
        return outcome
    reason = f"{standing.reason}; what is promoted was measured anew: {outcome.reason}"
    return replace(standing, reason=reason, worse=outcome.worse, seconds=outcome.seconds)


def _record(clients: Clients, planned: PlannedEntry, outcome: EntryOutcome) -> None:
    """Store what was done for an entry. An error is only a warning: the next refresh does it again."""
    try:
        record = record_of(planned, outcome.outcome.value, outcome.reason, variant=outcome.variant)
        unpromoted = unpromoted_record(clients, planned) if outcome.outcome is RefreshOutcome.MEASURED else None
        if unpromoted is not None:  # it is not to be tried again because what is promoted was measured
            record = unpromoted
        if planned.measure and not planned.changes and not outcome.has_failed:
            record = replace(record, measured_with=planned.fingerprint.engine)
        store_record(clients, planned.entry, record)
    except PaddockError as error:
        _LOG.warning("what was done for %s is not recorded: %s", planned.entry.name, error.message)


def _remember(clients: Clients, kept: Sequence[PlannedEntry]) -> None:
    for planned in kept:
        _record(clients, planned, outcome_of_plan(clients, planned))


@step(Kind.STORE, "report", line=lambda refreshed: refreshed.line)
def report_refresh(clients: Clients, refreshed: Refreshed) -> Refreshed:
    """Write the report, on the volume and in the remote store. Where one cannot be written, the other has it."""
    at = datetime.now(UTC)
    catalog = refreshed.plan.catalog if refreshed.plan else ""
    markdown = write_report(refreshed.entries, _surroundings(clients), at=at, catalog=catalog, line=refreshed.line)
    name = f"refresh-reports/{at:%Y-%m-%dT%H%M%S}.{at.microsecond // 1000:03}Z.md"
    report = _written(lambda: clients.volume.notes.write(name, markdown), clients.volume.label)
    counts = Counter(outcome.outcome.value for outcome in refreshed.entries)
    store_refresh(clients, RefreshRecord(counts, len(refreshed.failures)))
    remote = clients.remote
    remote_report = _written(lambda: remote.write_note(name, markdown), remote.label) if remote else None
    return replace(refreshed, markdown=markdown, report=report, remote_report=remote_report)


def _written(write: Callable[[], str], where: str) -> str | None:
    try:
        return write()
    except PaddockError as error:
        _LOG.warning("the report of the refresh is not on %s: %s", where, error.message)
        return None


def _surroundings(clients: Clients) -> Surroundings:
    """The state of the stores and engines; what cannot be found out is said instead."""
    problems: list[str] = []

    def find(what: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except PaddockError as error:
            problems.append(f"{what} is not known: {error.message}")
            return None

    use = find("the use of the volume", lambda: volume_use.sample(clients))
    remote = clients.remote
    remote_bytes = find("the use of S3", lambda: sum(remote.blobs().values())) if remote else None
    evicted = find("what `paddock gc` would remove", lambda: evict(clients, dry_run=True))
    others = find(
        "which engine measured what is promoted",
        lambda: tuple(
            f"{manifest.id.short}: {change.line}" for manifest, change in promoted_with_other_engines(clients)
        ),
    )
    return Surroundings(use, remote_bytes, evicted, others or (), tuple(problems))
