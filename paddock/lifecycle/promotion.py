"""Which snapshot is served: the pointer on the volume, and its twin in S3.

The volume's pointer flips first, and is what counts on this machine; the ref in S3 follows, so that other machines
learn of it. A step that died in between is finished by the next call: promoting what is promoted changes nothing.
"""

from __future__ import annotations

import logging

from paddock.errors import CorruptFile, NotOnVolume, StoreRefused, StoreUnavailable
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, is_revision, parse_ref, parse_revision

log = logging.getLogger(__name__)


def resolve_on_volume(parts: Parts, model: ModelName, ref: str) -> Manifest:
    """The manifest of a snapshot on the volume. A branch or tag is asked of the Hub; a commit is taken as it is.

    Raises NotOnVolume that lists the revisions that are there.
    """
    revision = parse_revision(ref) if is_revision(ref) else parts.hub.listing(model, parse_ref(ref)).revision
    manifest = parts.volume.snapshot(model, revision)
    if manifest is None:
        has = ", ".join(one.revision for one in parts.volume.snapshots(model)) or "none"
        raise NotOnVolume(
            f"{model}@{revision} is not on {parts.volume.label} (revisions there: {has})",
            cure="pull or onboard it first",
        )
    return manifest


def snapshot_of(parts: Parts, model: ModelName, ref: str | None) -> Manifest:
    """The snapshot of a revision; without one the promoted one, else the newest.

    Raises NotOnVolume.
    """
    ref = ref or parts.volume.promoted(model)
    if ref is not None:
        return resolve_on_volume(parts, model, ref)
    there = parts.volume.snapshots(model)
    if not there:
        raise NotOnVolume(f"{model} is not on {parts.volume.label}", cure="pull or onboard it first")
    return there[-1]


def promote(
    parts: Parts, model: ModelName, revision: Revision, *, reason: str, wait_for_s3: bool = True
) -> Revision | None:
    """Make a published snapshot the one that is served; returns what was promoted before, None at first.

    With `wait_for_s3` false, an S3 that cannot be told is a warning: its ref follows with the next promotion.
    """
    previous = parts.volume.promoted(model)
    if previous != revision:
        parts.volume.promote(model, revision, reason=reason)
    try:
        tell_s3(parts, model, revision, reason=reason)
    except (StoreUnavailable, StoreRefused) as error:
        if wait_for_s3:
            raise
        log.warning("%s; S3 does not know yet that %s@%s is promoted", error.message, model, revision[:8])
    return previous


def rollback(parts: Parts, model: ModelName, *, reason: str) -> tuple[Revision, Revision]:
    """Promote what was promoted before, on the volume and in S3. Returns (now, what it was until now).

    Each call goes one step further back, so it is never repeated as a whole: where S3 cannot be told, the error says
    what the volume shows by then, and promoting that finishes the step.
    """
    now, until_now = parts.volume.rollback(model, reason=reason)
    try:
        tell_s3(parts, model, now, reason=reason)
    except (StoreUnavailable, StoreRefused) as error:
        raise type(error)(
            f"{model} is rolled back to {now} on {parts.volume.label}, and S3 was not told: {error.message}",
            cure=f"promote {model}@{now} when S3 answers",
        ) from None
    return now, until_now


def tell_s3(parts: Parts, model: ModelName, revision: Revision, *, reason: str) -> None:
    """Let the ref in S3 follow. A snapshot that was never pushed has none: a ref names only what S3 can give."""
    s3 = parts.s3
    if s3 is None:
        return
    try:
        known = s3.promoted(model) != revision and s3.snapshot(model, revision) is not None
    except CorruptFile:  # a damaged manifest there gives nobody the snapshot
        return
    if known:
        s3.promote(model, revision, reason=reason)
