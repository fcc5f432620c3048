"""Promotion and rollback, first on the volume and then in S3.

The volume's history and links change first, and are what counts on this machine; then S3 is told, so that other
machines learn of it. An operation that died in between, or that could not reach S3, is finished by the same call again:
it does not step twice."""

from __future__ import annotations

import logging

from paddock.errors import CorruptFile, StoreRefused, StoreUnavailable
from paddock.lifecycle.parts import Parts
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promotion
from paddock.store.promotions import Untold
from paddock.store.s3 import S3Store

log = logging.getLogger(__name__)


def promote(
    parts: Parts,
    id: SnapshotId,
    *,
    reason: str,
    default: bool = True,
    wait_for_s3: bool = True,
    operation: str | None = None,
) -> Promotion:
    """Promote a published snapshot, and make its variant the model's default unless told otherwise.

    With `wait_for_s3` false, an S3 that cannot be told is a warning: its ref follows with the next promotion or copy.
    The same `operation` is carried out once."""
    done = parts.volume.promote(id, reason=reason, default=default, operation=operation)
    try:
        tell_s3(parts, id.model)
    except (StoreUnavailable, StoreRefused) as error:
        if wait_for_s3:
            raise
        log.warning("%s; S3 does not know yet that %s is promoted", error.message, id.short)
        parts.volume.finish(id.model, parts.volume.untold(id.model))
    return done


def rollback(
    parts: Parts, model: ModelName, variant: Variant | None = None, *, reason: str, operation: str | None = None
) -> Promotion:
    """Undo the last change of what the model's name stands for, or that of a variant, on the volume and in S3.

    A rollback that died or did not reach S3 is finished by the same call, rather than followed by another step. The
    same `operation` is carried out once. Raises NotOnVolume when there is nothing to go back to."""
    variant = parts.volume.spelled(model, variant) if variant else None
    operation = operation or _unfinished_rollback(parts, model, variant)
    done = parts.volume.rollback(model, variant, reason=reason, operation=operation)
    try:
        tell_s3(parts, model)
    except (StoreUnavailable, StoreRefused) as error:
        name = f"{model}:{variant}" if variant else str(model)
        raise type(error)(
            f"{name} is rolled back on {parts.volume.label}, and S3 was not told: {error.message}",
            cure=f"run `paddock rollback {name}` again when S3 answers: it finishes this one, and goes no further back",
        ) from None
    return done


def tell_s3(parts: Parts, model: ModelName) -> None:
    """Let the ref in S3 follow what this volume promoted since it was told last. A snapshot that S3 does not have is
    told when it was copied there: a ref names only what S3 can give. Raises StoreUnavailable and StoreRefused."""
    untold = parts.volume.untold(model)
    if parts.s3 is not None and (untold.variants or untold.default):
        untold = _told(parts, parts.s3, model, untold)
    parts.volume.finish(model, untold)


def _told(parts: Parts, s3: S3Store, model: ModelName, untold: Untold) -> Untold:
    """Tell S3 what it can be told, and return the rest."""
    promoted = parts.volume.promoted(model)
    ids = [id for variant in sorted(untold.variants) if (id := promoted.of(variant)) is not None]
    known = [id for id in ids if _has(s3, id)]
    default = promoted.default_id if untold.default else None
    there = s3.promoted(model)
    if default is not None and default.variant not in there.revisions and default not in known:
        default = None
    if known or default:
        s3.promote(known, default=default)
    rest = frozenset(id.variant for id in ids if id not in known)
    return Untold(rest, untold.default and default is None and promoted.default is not None, untold.upto)


def _has(s3: S3Store, id: SnapshotId) -> bool:
    try:
        return s3.snapshot(id) is not None
    except CorruptFile:  # a damaged manifest there gives nobody the snapshot
        return False


def _unfinished_rollback(parts: Parts, model: ModelName, variant: Variant | None) -> str | None:
    """The operation of a rollback of the same thing that did not come to its end."""
    last = parts.volume.unfinished(model)
    if last is None or not last.rollback or last.target != variant:
        return None
    log.warning("the rollback of %s from %s is finished", model, last.at.isoformat(timespec="seconds"))
    return last.operation
