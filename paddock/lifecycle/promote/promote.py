"""Promote a snapshot and roll back: first on the volume, then in the remote store.

The volume's history and links change first, and decide what this machine serves; then the model's ref in the remote
store is updated for other machines. An operation that was killed in between, or that could not reach the remote store,
is finished by the same call again, and is not carried out twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paddock.errors import BadSetting, PaddockError, StoreRefused, StoreUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossier, write_dossier
from paddock.lifecycle.locate import locate
from paddock.lifecycle.promote.gating import (
    Comparer,
    PromotionScope,
    in_process,
    overridden_gates,
    require_gates,
)
from paddock.lifecycle.promote.retention import Pruned, prune
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.revisions import resolve_commit
from paddock.lifecycle.steps import Runner, step
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Reference, SnapshotId, Variant
from paddock.store.history import Promoted, Promotion
from paddock.store.protocol import RemoteStore, has_snapshot
from paddock.store.volume.remote_updates import PendingRemoteUpdates

log = logging.getLogger(__name__)

BY_HAND = "promoted by hand"
"""The reason of a promotion for which none is given."""


@dataclass(frozen=True, slots=True)
class PromoteResult:
    """The result of a promotion: the change, the old snapshots that were removed, and the path of the dossier."""

    manifest: Manifest
    change: Promotion
    pruned: Pruned
    dossier: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The result of a rollback: the snapshot that is promoted again, the change, and the path of the dossier."""

    manifest: Manifest
    change: Promotion
    dossier: str


def promote(
    runner: Runner,
    wanted: Reference,
    *,
    reason: str,
    force: bool = False,
    default: bool = True,
    instead_of: Variant | None = None,
    comparer: Comparer | None = None,
    announce: Callable[[str], None] = log.info,
) -> PromoteResult:
    """Promote a snapshot of the volume that the gates let through, with `default` make its variant the model's default,
    remove old snapshots, and write its dossier.

    Where it replaces other files and was not compared with them, `comparer` does that, by default in this process.
    `instead_of` is that of PromotionScope. With `force` no gate counts, and the history says so. Raises GateNotPassed,
    and PromotionConflict where another snapshot was promoted since the gates were decided; what is promoted is then
    unchanged. Raises BadSetting for a forced promotion without a reason.
    """
    if force and reason.strip() in {"", BY_HAND}:
        raise BadSetting("a forced promotion has no reason of its own", cure="say why, for the history")
    manifest, scope = runner.run(locate, wanted), PromotionScope(default, instead_of)
    expected = forced_past = None
    if force:
        forced_past = overridden_gates(runner.clients, manifest, scope)
    else:
        expected = require_gates(runner, manifest, comparer or in_process(runner), scope=scope, announce=announce)
    change = runner.run(
        promote_snapshot,
        manifest.id,
        reason,
        default=default,
        expected=expected,
        forced_past=forced_past,
        operation=runner.operation,
    )
    pruned = runner.run(prune, manifest.model, manifest.variant)
    dossier = runner.run(write_dossier, manifest)
    return PromoteResult(manifest, change, pruned, dossier.path)


def rollback(runner: Runner, wanted: Reference, *, reason: str) -> RolledBack:
    """Undo the last change of the model's default, or of a variant's promoted revision, and write the dossier. A
    reference with a revision goes back to that one."""
    change = runner.run(roll_back, wanted, reason, operation=runner.operation)
    model = runner.clients.volume.spelled(wanted.model)
    manifest = runner.run(locate, Reference(model, change.variant, change.revision))
    dossier = runner.run(write_dossier, manifest)
    return RolledBack(manifest, change, dossier.path)


def _line(change: Promotion) -> str:
    if not change.moves_revision and not change.moves_default:
        return f"{change.variant}@{change.revision} was promoted already"
    return f"promoted {change.variant}@{change.revision}, before: {change.previous or 'nothing'}"


@step(Kind.STORE, "promote", line=_line)
def promote_snapshot(
    clients: Clients,
    id: SnapshotId,
    reason: str,
    *,
    default: bool = True,
    wait_for_remote: bool = True,
    operation: str | None = None,
    expected: Promoted | None = None,
    forced_past: Sequence[str] | None = None,
) -> Promotion:
    """Promote a published snapshot; with `default`, make its variant the model's default.

    With `wait_for_remote` false, a failure to update the remote store is a warning: the next promotion or copy updates
    its ref. The same `operation` is carried out once. `expected` and `forced_past` are those of `Promotions.promote`.
    """
    change = clients.volume.promotions.promote(
        id, reason=reason, default=default, operation=operation, expected=expected, forced_past=forced_past
    )
    try:
        update_remote_ref(clients, id.model)
    except (StoreUnavailable, StoreRefused) as error:
        if wait_for_remote:
            raise
        log.warning("%s; S3 is not updated yet with the promotion of %s", error.message, id.short)
        clients.volume.remote_updates.finish(id.model, clients.volume.remote_updates.pending(id.model))
    _refresh_dossiers(clients, id.model, change)
    return change


@step(Kind.STORE, "rollback", line=lambda change: f"rolled back to {change.variant}@{change.revision}")
def roll_back(
    clients: Clients, wanted: Reference, reason: str, *, operation: str | None = None, undoes: str | None = None
) -> Promotion:
    """Undo the last change of the model's default, or of a variant's promoted revision, on the volume and in the remote
    store; for a reference with a revision, go back to that one.

    A rollback that was killed or did not reach the remote store is finished by the same call, and not followed by a
    second one. The same `operation` is carried out once. Raises NotOnVolume when there is nothing to go back to, and
    PromotionConflict where the last change is another operation than `undoes`.
    """
    model = clients.volume.spelled(wanted.model)
    variant = clients.volume.resolve_variant(model, wanted.variant) if wanted.variant else None
    to = resolve_commit(clients, model, wanted.ref) if wanted.ref else None
    operation = operation or _unfinished_rollback(clients, model, variant, to)
    change = clients.volume.rollback(model, variant, reason=reason, to=to, operation=operation, undoes=undoes)
    try:
        update_remote_ref(clients, model)
    except (StoreUnavailable, StoreRefused) as error:
        name = f"{model}:{variant}" if variant else str(model)
        raise type(error)(
            f"{name} is rolled back on {clients.volume.label}, but S3 was not updated: {error.message}",
            cure=f"run `paddock rollback {name}` again when S3 answers: it finishes this one, and goes no further back",
        ) from None
    _refresh_dossiers(clients, model, change)
    return change


def _refresh_dossiers(clients: Clients, model: ModelName, change: Promotion) -> None:
    """Write the dossiers again that say what was promoted: of the snapshots that a change promoted or replaced, and of
    the default before and after it.

    An error is only a warning: the change is made, and a caller who is told of an error makes it again.
    """
    try:
        promoted = clients.volume.promoted(model)
        variants = (change.variant, change.default, change.previous_default)
        ids = {promoted.of(variant) for variant in variants if variant}
        ids |= {SnapshotId(model, commit, change.variant) for commit in (change.revision, change.previous) if commit}
        for id in ids:
            manifest = clients.volume.snapshot(id) if id else None
            if manifest is not None:
                refresh_dossier(clients, manifest)
    except PaddockError as error:
        log.warning("the dossiers of %s do not say yet what is promoted: %s", model, error.message)


def update_remote_ref(clients: Clients, model: ModelName) -> None:
    """Update the model's ref in the remote store with the promotions of this volume since the last update.

    A ref names only snapshots that the store has; one that it lacks is added after it was copied. Raises
    StoreUnavailable and StoreRefused.
    """
    pending = clients.volume.remote_updates.pending(model)
    if clients.remote is not None and (pending.variants or pending.default):
        pending = _update(clients, clients.remote, model, pending)
    clients.volume.remote_updates.finish(model, pending)


def _update(
    clients: Clients, remote: RemoteStore, model: ModelName, pending: PendingRemoteUpdates
) -> PendingRemoteUpdates:
    """Update the ref with the snapshots that the store has, and return the updates that remain."""
    promoted = clients.volume.promoted(model)
    ids = [id for variant in sorted(pending.variants) if (id := promoted.of(variant)) is not None]
    stored = [id for id in ids if has_snapshot(remote, id)]
    default = promoted.default_id if pending.default else None
    remote_promoted = remote.promoted(model)
    if default is not None and default.variant not in remote_promoted.revisions and default not in stored:
        default = None
    if stored or default:
        remote.promote(stored, default=default)
    rest = frozenset(id.variant for id in ids if id not in stored)
    default_is_pending = pending.default and default is None and promoted.default is not None
    return PendingRemoteUpdates(rest, default_is_pending, pending.upto)


def _unfinished_rollback(
    clients: Clients, model: ModelName, variant: Variant | None, to: Revision | None
) -> str | None:
    """The operation of an unfinished rollback of the same model or variant, to the same revision if one is named."""
    last = clients.volume.remote_updates.unfinished(model)
    if last is None or not last.rollback or last.target != variant or to not in {None, last.revision}:
        return None
    log.warning("the rollback of %s from %s is finished", model, last.at.isoformat(timespec="seconds"))
    return last.operation
