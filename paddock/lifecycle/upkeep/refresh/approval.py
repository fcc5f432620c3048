"""Ask a person whether to promote what a refresh prepared, for entries with `approval: true`."""

from __future__ import annotations

from collections.abc import Callable

from paddock.errors import NotOnVolume, OrchestratorUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.approval import refusal
from paddock.lifecycle.promote.gating import PromotionScope
from paddock.lifecycle.upkeep.refresh.outcome import RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry
from paddock.lifecycle.upkeep.refresh.record import WAITING, EntryRecord
from paddock.model.artifact import Manifest
from paddock.model.reference import SnapshotId

RequestApproval = Callable[[Manifest, str, PromotionScope], str]
"""Asks a person whether to promote a snapshot: (the snapshot, what differs, the reach of its promotion). Returns where
it is answered, or the answer. Asked again, it asks nobody twice."""

_UNPROMOTED = frozenset({RefreshOutcome.HELD_BACK.value, WAITING})


def approval_by_command(manifest: Manifest, difference: str, scope: PromotionScope) -> str:  # noqa: ARG001
    """Approval without Prefect: the command that promotes the snapshot."""
    command = f"paddock promote {manifest.id}"
    return f"`{command if scope.default else f'{command} --no-default'}` promotes it"


def scope_of(planned: PlannedEntry) -> PromotionScope:
    """The reach of the promotion of what is planned."""
    return PromotionScope(planned.moves_default, planned.instead_of)


def ask(
    clients: Clients, manifest: Manifest, planned: PlannedEntry, compared: str, request_approval: RequestApproval
) -> tuple[RefreshOutcome, str]:
    """Ask for the promotion of a snapshot, and return the outcome and its reason. `compared` says what the gates found.
    Where nobody can be asked now, the next refresh asks."""
    difference = planned.difference.lines() if planned.difference else ()
    try:
        reason = request_approval(manifest, "\n".join([planned.reason, compared, *difference]), scope_of(planned))
    except OrchestratorUnavailable as error:
        return RefreshOutcome.WAITING, str(error)
    refused = refusal(clients, manifest)
    if refused is not None:
        return RefreshOutcome.HELD_BACK, f"its promotion was {refused.line}"
    return RefreshOutcome.WAITING, reason


def ask_again(clients: Clients, planned: PlannedEntry, request_approval: RequestApproval) -> tuple[RefreshOutcome, str]:
    """As `ask`, for a snapshot that waits since an earlier refresh. Raises NotOnVolume where it was removed."""
    record = planned.record
    if record is None or record.revision is None or record.variant is None:
        raise AssertionError("what waits has a record")
    id = SnapshotId(planned.model, record.revision, record.variant)
    manifest = clients.volume.snapshot(id)
    if manifest is None:
        raise NotOnVolume(f"{id.short} waited for approval, and was removed", cure="the next refresh fetches it again")
    return ask(clients, manifest, planned, record.reason, request_approval)


def unpromoted_record(clients: Clients, planned: PlannedEntry) -> EntryRecord | None:
    """The record of a commit that was held back or waits for approval, if the channel is at it and nobody promoted it
    since."""
    record = planned.record
    if record is None or record.revision != planned.revision or record.outcome not in _UNPROMOTED:
        return None
    id = clients.volume.promoted(planned.model).of(record.variant) if record.variant else None
    return None if id and id.revision == planned.revision else record


def waits(clients: Clients, planned: PlannedEntry) -> bool:
    """Whether an entry for which nothing is to be done waits for approval."""
    record = None if planned.changes else unpromoted_record(clients, planned)
    return record is not None and record.outcome == WAITING
