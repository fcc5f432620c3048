"""Emit Prefect's events of the product: what happened to a model, after the step that did it succeeded.

The model is the resource, `paddock.model.<org/name>`, with its variant, revision and volume as labels. `_EVENTS` maps
steps to events, as `tasks.recorders` maps them to artifacts. An event is sent in the background, so that one can be
lost or late, and a server that takes none fails no step: what is done must not rest on events alone.

A payload is small: texts and lists in it are cut, and texts are on one line. It holds what the step's log line says,
and no secret.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, islice
from typing import Any

from paddock.errors import ModelRejected, PaddockError
from paddock.lifecycle.acquire.publish import Published, publish
from paddock.lifecycle.acquire.restore import publish_restored
from paddock.lifecycle.assess.validate import Validation, check_structure, conclude
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.approval import Approval, record_approval
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.promote.gating import leave_undecided
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.lifecycle.steps import Step
from paddock.lifecycle.upkeep.scrub import Scrubbed, scrub, scrub_remote
from paddock.lifecycle.upkeep.verify import VerifiedFile
from paddock.measure.gate_report import GateReport
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId
from paddock.plain_text import one_line
from paddock.store.history import Promotion
from tasks.recorders import StepRun
from tasks.subject import StoreSubject

RESOURCE = "paddock.model"
MOST_CHARACTERS = 500
MOST_ITEMS = 20
MOST_EVENTS = 100
"""Of one step: a scrub may find a thousand damaged snapshots."""

_LOG = logging.getLogger(__name__)


class EventName(StrEnum):
    AVAILABLE = "paddock.model.available"
    REJECTED = "paddock.model.rejected"
    VALIDATED = "paddock.model.validated"
    HELD_BACK = "paddock.model.held-back"
    PROMOTED = "paddock.model.promoted"
    ROLLED_BACK = "paddock.model.rolled-back"
    DAMAGED = "paddock.model.damaged"
    REPAIRED = "paddock.model.repaired"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """Something that happened to a snapshot; `id` is None before a variant is chosen."""

    name: EventName
    model: ModelName
    id: SnapshotId | None = None
    payload: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: EventName, id: SnapshotId, **payload: Any) -> ModelEvent:
        return cls(name, id.model, id, payload)

    def resource(self, volume: str) -> dict[str, str]:
        """The labels of the resource. `volume` is the name that the volume gave itself."""
        labels = {
            "prefect.resource.id": f"{RESOURCE}.{self.model}",
            "prefect.resource.name": self.id.short if self.id else str(self.model),
            "paddock.volume": volume,
        }
        if self.id is not None:
            labels |= {"paddock.variant": self.id.variant, "paddock.revision": self.id.revision}
        return labels


def events_of(step: Step[..., Any], run: StepRun, result: Any) -> list[ModelEvent]:
    """The events of a step that succeeded. Most steps have none."""
    found = _EVENTS.get(step)
    return list(islice(found(run, result), MOST_EVENTS)) if found is not None else []


def rejection_of(run: StepRun, error: ModelRejected) -> ModelEvent | None:
    """The event of a step that raised ModelRejected. None where its arguments name no model."""
    arguments = run.arguments
    payload = {"reason": error.message, "rules": _rules(error.findings)}
    for name in ("manifest", "plan"):
        if name in arguments:
            return ModelEvent.of(EventName.REJECTED, arguments[name].id, **payload)
    for name in ("listing", "wanted"):
        if name in arguments:
            return ModelEvent(EventName.REJECTED, arguments[name].model, None, payload)
    return None


def emit_events(step: Step[..., Any], run: StepRun, result: Any) -> None:
    """Emit the events of a step that succeeded."""
    try:
        emit(run.clients, events_of(step, run, result))
    except PaddockError as error:  # of a store that was read for the event
        _LOG.warning("no event of the step %s: %s", step.name, error.message)


def emit_rejection(run: StepRun, error: ModelRejected) -> None:
    """Emit the event of a step that rejected a model."""
    event = rejection_of(run, error)
    emit(run.clients, [event] if event else [])


def emit(clients: Clients, events: Sequence[ModelEvent]) -> None:
    """Send events to the server of the current run. Raises nothing: Prefect logs what it cannot send."""
    if not events:
        return
    from prefect.events import emit_event

    volume = StoreSubject.of_volume(clients).identity
    for event in events:
        emit_event(event=event.name, resource=event.resource(volume), payload=_bounded(event.payload))


def _available(_: StepRun, published: Published) -> Iterator[ModelEvent]:
    manifest = published.manifest
    yield ModelEvent.of(
        EventName.AVAILABLE,
        manifest.id,
        size_bytes=manifest.size_bytes,
        fetched_bytes=published.transferred_bytes,
        verdict=str(manifest.verdict),
    )


def _structure(run: StepRun, structure: Any) -> Iterator[ModelEvent]:
    """The validation of a model with a rejected structure ends there."""
    if structure.verdict is Verdict.REJECT:
        yield _rejected(run.manifest.id, structure.findings)


def _validated(run: StepRun, validation: Validation) -> Iterator[ModelEvent]:
    if validation.verdict is Verdict.REJECT:
        yield _rejected(run.manifest.id, validation.findings)
        return
    yield ModelEvent.of(
        EventName.VALIDATED,
        run.manifest.id,
        verdict=str(validation.verdict),
        target=validation.target,
        memory_bytes=validation.memory.total_bytes,
        rules=_rules(validation.findings),
    )


def _rejected(id: SnapshotId, findings: Sequence[Finding]) -> ModelEvent:
    rejecting = [finding for finding in findings if finding.severity is Severity.REJECT]
    reason = "; ".join(finding.message for finding in rejecting)
    return ModelEvent.of(EventName.REJECTED, id, reason=reason, rules=_rules(rejecting))


def _compared(run: StepRun, report: GateReport) -> Iterator[ModelEvent]:
    """A comparison of what is promoted already, by hand, holds nothing back."""
    id = run.manifest.id
    if not report.passed and not run.clients.volume.promoted(id.model).holds(id):
        held = report.failed or report.undecided
        yield ModelEvent.of(
            EventName.HELD_BACK,
            id,
            reason=report.line,
            failed_gates=[gate.name for gate in held],
            promoted=report.promoted,
        )


def _answered(run: StepRun, approval: Approval) -> Iterator[ModelEvent]:
    """A person or the time-out holds a model back as a gate does; an approved one is promoted next."""
    if not approval.approved:
        yield ModelEvent.of(
            EventName.HELD_BACK, run.manifest.id, reason=approval.line, failed_gates=[], promoted=approval.replaces
        )


def _promoted(run: StepRun, change: Promotion) -> Iterator[ModelEvent]:
    if change.moves_revision or change.moves_default:
        yield _change(EventName.PROMOTED, run["id"].model, change)


def _rolled_back(run: StepRun, change: Promotion) -> Iterator[ModelEvent]:
    yield rollback_event(run.clients.volume.spelled(run["wanted"].model), change)


def rollback_event(model: ModelName, change: Promotion) -> ModelEvent:
    """The event of a rollback, also for one that is not made by a step."""
    return _change(EventName.ROLLED_BACK, model, change)


def _change(name: EventName, model: ModelName, change: Promotion) -> ModelEvent:
    id = SnapshotId(model, change.revision, change.variant) if change.revision else None
    payload = {
        "reason": change.why,
        "previous": change.previous,
        "default": change.default,
        "previous_default": change.previous_default,
        "failed_gates": list(change.failed_gates),
        "by": change.by,
    }
    return ModelEvent(name, model, id, payload)


def _scrubbed(_: StepRun, scrubbed: Scrubbed | None) -> Iterator[ModelEvent]:
    """One event for each snapshot: `damaged` where damage stays, else `repaired`."""
    damaged = sorted(scrubbed.damaged, key=lambda file: str(file.id)) if scrubbed else []
    for _id, group in groupby(damaged, key=lambda file: file.id):
        files = list(group)
        left = [file for file in files if not file.ok]
        yield _damage(EventName.DAMAGED if left else EventName.REPAIRED, left or files, scrubbed)


def _damage(name: EventName, files: Sequence[VerifiedFile], scrubbed: Scrubbed | None) -> ModelEvent:
    return ModelEvent.of(
        name,
        files[0].id,
        reason="; ".join(f"{file.path}: {file.damage}" for file in files),
        files=[file.path for file in files],
        repaired_bytes=sum(file.repaired_bytes for file in files),
        store=scrubbed.where if scrubbed else "",
    )


def _rules(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.rule for finding in findings))


def _bounded(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: _cut(value) for name, value in payload.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        text = one_line(value)
        return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
    return [_cut(item) for item in value[:MOST_ITEMS]] if isinstance(value, list) else value


_EVENTS: dict[Step[..., Any], Callable[[StepRun, Any], Iterable[ModelEvent]]] = {
    publish: _available,
    publish_restored: _available,
    check_structure: _structure,
    conclude: _validated,
    compare: _compared,
    leave_undecided: _compared,
    record_approval: _answered,
    promote_snapshot: _promoted,
    roll_back: _rolled_back,
    scrub: _scrubbed,
    scrub_remote: _scrubbed,
}
