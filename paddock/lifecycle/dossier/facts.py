"""Gather what is known of a snapshot: its manifest, the reports on it, its chat template and its promotions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from paddock.chat.template import ChatFormat
from paddock.errors import CorruptFile, PaddockError
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.validate import Validation, read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.gate_reports import read_gates
from paddock.lifecycle.run.cost import cost_of_snapshot
from paddock.lifecycle.run.pictures import KeptPicture, read_pictures
from paddock.lifecycle.run.quality import read_quality
from paddock.lifecycle.run.stored_benchmarks import benchmark_history, planned_context, standing
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.cost import CostRow
from paddock.measure.gate_report import GateReport
from paddock.measure.quality import Quality
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict, worst_verdict
from paddock.model.reference import SnapshotId
from paddock.store.history import Promoted, Promotion

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DossierFacts:
    """All that is known of a snapshot. None stands for what was not measured, or has no report that can be read.

    `damage` says what is damaged of the stored files; empty where nothing is known to be. `history` has the promotions
    that the snapshot had a part in, oldest first, and `costs` a row for each machine that measured it.
    """

    manifest: Manifest
    promoted: Promoted
    history: tuple[Promotion, ...]
    damage: str
    validation: Validation | None
    chat: ChatFormat | None
    benchmark: Benchmark | None
    quality: Quality | None
    gates: GateReport | None
    costs: tuple[CostRow, ...] = ()
    pictures: tuple[KeptPicture, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the audit before publication and the last validation."""
        if self.damage:
            return Verdict.REJECT
        return worst_verdict([self.manifest.verdict, *([self.validation.verdict] if self.validation else [])])

    @property
    def is_default(self) -> bool:
        return self.promoted.default_id == self.manifest.id

    @property
    def known_at(self) -> datetime:
        """The time of the newest fact."""
        measured = [report.measured_at for report in (self.benchmark, self.quality, self.gates) if report is not None]
        times = [_parsed(text) for text in measured if text]
        return max([self.manifest.created_at, *(change.at for change in self.history), *filter(None, times)])


def gather(clients: Clients, manifest: Manifest) -> DossierFacts:
    """Read the facts from the volume and the remote store. Whatever cannot be read counts as unknown."""
    results, context_tokens = benchmark_history(clients, manifest), planned_context(clients, manifest)
    chat = _chat(clients, manifest)  # first: it may find a file that was edited
    return DossierFacts(
        manifest=manifest,
        promoted=clients.volume.promoted(manifest.model),
        history=tuple(changes_of(manifest.id, clients.volume.history(manifest.model))),
        damage=_damage(clients, manifest),
        validation=read_validation(clients, manifest),
        chat=chat,
        benchmark=standing(results, context_tokens),
        quality=read_quality(clients, manifest),
        gates=read_gates(clients, manifest),
        costs=_costs(clients, manifest, results, context_tokens),
        pictures=read_pictures(clients, manifest),
    )


def changes_of(id: SnapshotId, history: Sequence[Promotion]) -> Iterator[Promotion]:
    """The changes after which a snapshot was promoted, or was the default, and had not been before, or the reverse."""
    before = Promoted(id.model)
    for change in history:
        after = before.after(change)
        if (before.holds(id), before.default_id == id) != (after.holds(id), after.default_id == id):
            yield change
        before = after


def _damage(clients: Clients, manifest: Manifest) -> str:
    try:
        clients.volume.require_undamaged(manifest.id)
    except CorruptFile as error:
        return error.message
    return ""


def _chat(clients: Clients, manifest: Manifest) -> ChatFormat | None:
    try:
        return chat_of_snapshot(clients, manifest)
    except (PaddockError, OSError) as error:
        _LOG.warning("the chat template of %s cannot be read: %s", manifest.id.short, type(error).__name__)
        return None


def _costs(
    clients: Clients, manifest: Manifest, results: Sequence[Benchmark], context_tokens: int
) -> tuple[CostRow, ...]:
    try:
        return cost_of_snapshot(clients, manifest, results, context_tokens) if results else ()
    except PaddockError as error:  # the catalog, which has prices, is not valid
        _LOG.warning("the cost of %s is not known: %s", manifest.id.short, error.message)
        return ()


def _parsed(text: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else None
