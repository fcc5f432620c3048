"""Carry out what a refresh plans for one entry of the catalog.

| action | what is done |
|---|---|
| retag | a new snapshot of the files that are here, with their measurements; promoted without new ones |
| template-only, metadata-only, fetch | the onboarding of `paddock.lifecycle.onboard` |
| keep, where another engine measured it | the promoted snapshot is validated and measured anew |

An entry with `approval: true` is not promoted here: a person is asked.
"""

from __future__ import annotations

import re
import time
from typing import Final

from paddock.errors import EngineCrashed, ModelError
from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import OnboardRequest, onboard
from paddock.lifecycle.run.engine_change import engine_change
from paddock.lifecycle.upkeep.refresh.approval import RequestApproval, ask, ask_again, scope_of, waits
from paddock.lifecycle.upkeep.refresh.measure import measure_again
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import Action, PlannedEntry
from paddock.lifecycle.upkeep.refresh.turns import InTurns
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference, SnapshotId

_MEASUREMENTS: Final = re.compile(r"(benchmark|judgement)[a-zA-Z0-9.-]*\.json")
"""The reports that say the same of each snapshot with these files."""


def change_entry(
    clients: Clients, phases: InTurns, planned: PlannedEntry, request_approval: RequestApproval
) -> EntryOutcome:
    """Carry out what is planned for an entry. A model that is rejected or held back is an outcome; all other errors are
    raised (`paddock.errors`)."""
    began = time.monotonic()
    worse: tuple[str, ...] = ()
    try:
        if not planned.changes:
            outcome, reason, worse = _keep(clients, phases, planned, request_approval)
        elif planned.action is Action.RETAG:
            outcome, reason, worse = _retag(clients, phases, planned, request_approval)
        else:
            outcome, reason = _onboard(clients, phases, planned, request_approval)
    except (ModelError, EngineCrashed) as error:
        if isinstance(error, EngineCrashed) and not error.by_signal:
            raise
        outcome, reason = RefreshOutcome.HELD_BACK, error.message
    published = phases.published
    is_known = published is not None or not planned.changes
    return EntryOutcome.of(
        planned,
        outcome,
        reason,
        variant=published.manifest.variant if published else None,
        bytes=(published.transferred_bytes if published else 0) if is_known else None,
        seconds=time.monotonic() - began,
        worse=worse,
        is_served=is_served(clients, planned),
    )


def described(worse: tuple[str, ...]) -> str:
    """The findings of a measurement with another engine, as a sentence part."""
    return "; ".join(worse) or "nothing got worse with this engine"


def onboard_request(planned: PlannedEntry) -> OnboardRequest:
    """The request that onboards what is planned. It names the commit, so that a branch that moves meanwhile waits for
    the next refresh."""
    entry = planned.entry
    return OnboardRequest(
        Reference(planned.model, planned.variant, planned.revision),
        context_tokens=entry.context_tokens,
        profile=entry.profile,
        target=entry.target,
        promote=not entry.approval,
        scope=scope_of(planned),
        reason=f"refreshed: {planned.reason}",
    )


def is_served(clients: Clients, planned: PlannedEntry) -> bool:
    """Whether a snapshot of the entry's variant is promoted, or of the one whose place it takes."""
    promoted = clients.volume.promoted(planned.model)
    variants = (planned.variant or planned.entry.wanted_variant, planned.instead_of)
    if not any(variants):
        return bool(promoted.revisions)
    return any(promoted.of(variant) is not None for variant in variants if variant)


def _keep(
    clients: Clients, phases: InTurns, planned: PlannedEntry, request_approval: RequestApproval
) -> tuple[RefreshOutcome, str, tuple[str, ...]]:
    """Measure what is promoted anew where another engine did, and ask again for what waits."""
    worse = measure_again(clients, phases, planned, onboard_request(planned)) if planned.measure else ()
    if waits(clients, planned):
        return *ask_again(clients, planned, request_approval), worse
    return RefreshOutcome.MEASURED, described(worse), worse


def _onboard(
    clients: Clients, phases: InTurns, planned: PlannedEntry, request_approval: RequestApproval
) -> tuple[RefreshOutcome, str]:
    onboarded = onboard(clients, phases, onboard_request(planned))
    gates = onboarded.gates
    if gates is not None and not gates.passed:
        return RefreshOutcome.HELD_BACK, gates.line
    if onboarded.promoted:
        return RefreshOutcome.PROMOTED, "; ".join(
            [*([gates.line] if gates else []), *onboarded.notes]
        ) or planned.reason
    if phases.published is None:
        raise AssertionError("an onboarding has acquired something")
    compared = gates.line if gates else "it replaces no other files"
    return ask(clients, phases.published.manifest, planned, compared, request_approval)


def _retag(
    clients: Clients, phases: InTurns, planned: PlannedEntry, request_approval: RequestApproval
) -> tuple[RefreshOutcome, str, tuple[str, ...]]:
    request = onboard_request(planned)
    manifest = phases.acquire(request).manifest
    before = clients.volume.promoted(manifest.model).of(manifest.variant)
    _carry_measurements(clients, before, manifest)
    phases.cache(manifest)
    if not request.promote:
        phases.write_dossier(manifest)
        return *ask(clients, manifest, planned, "its model files are the promoted ones", request_approval), ()
    phases.promote(manifest, request)
    if engine_change(clients, manifest) is None:
        return RefreshOutcome.RETAGGED, planned.reason, ()
    worse = measure_again(clients, phases, planned, request)
    return RefreshOutcome.RETAGGED, f"{planned.reason}; measured anew: {described(worse)}", worse


def _carry_measurements(clients: Clients, source: SnapshotId | None, target: Manifest) -> None:
    """Copy the measurements of a snapshot with the same model files. On a volume that cannot be written, nothing is
    recorded."""
    manifest = clients.volume.snapshot(source) if source and source != target.id else None
    if manifest is not None:
        with clients.volume.recording():
            reports.carry_over(clients, manifest, target, _MEASUREMENTS)
