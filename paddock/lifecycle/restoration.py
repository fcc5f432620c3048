"""Restoring a snapshot from S3 onto a volume, without the Hub.

The snapshot becomes what it was where it was published: the same manifest, the same files. That somebody published it
is no reason to believe it, since others can write to a bucket: every byte is hashed on its way, the GGUF is audited
anew, and a chat template that this Paddock would not have chosen is audited too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.chat.audit import audit_template
from paddock.chat.template import DERIVED, TEMPLATE_FILE
from paddock.errors import BadSetting, CorruptFile, NotOnVolume
from paddock.lifecycle import acquisition, promotion
from paddock.lifecycle.acquisition import Plan, Published
from paddock.lifecycle.auditing import Audited, audit_acquired, require_accepted
from paddock.lifecycle.delivery import Acquired, Row, restore_file
from paddock.lifecycle.listing import listing_of
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Manifest, RepositoryFile
from paddock.model.finding import verdict_of
from paddock.model.names import ModelName, is_revision, parse_ref, parse_revision
from paddock.model.quantization import is_gguf
from paddock.model.source import Expected
from paddock.planning.choice import choose
from paddock.store.s3 import S3Store
from paddock.transfer.digest import same_kind
from paddock.transfer.progress import Moved, Watch


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restoration did. `path` is the snapshot's directory, or the promoted one."""

    path: Path
    manifest: Manifest
    acquired: tuple[Acquired, ...]
    promoted: bool
    seconds: float

    @property
    def transferred_bytes(self) -> int:
        return sum(one.transferred_bytes for one in self.acquired)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "revision": self.manifest.revision,
            "quantization": self.manifest.quantization,
            "promoted": self.promoted,
            "files": [
                {"path": one.file.path, "size": one.file.size, "sha256": one.file.sha256, "source": one.origin}
                for one in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
            "seconds": round(self.seconds, 3),
        }


def find(parts: Parts, model: ModelName, ref: str | None = None) -> Manifest:
    """The snapshot in S3: of a commit, or of a branch or tag that the Hub resolves; without one what is promoted in S3,
    else the newest there.

    Raises BadSetting where no S3 is set, and NotOnVolume that lists the revisions that are there.
    """
    s3 = _s3(parts)
    if ref is None:
        revision = s3.promoted(model)
    else:
        revision = parse_revision(ref) if is_revision(ref) else parts.hub.listing(model, parse_ref(ref)).revision
    manifest = s3.snapshot(model, revision) if revision else None
    if manifest is not None:
        return manifest
    there = s3.snapshots(model)
    if ref is None and there:
        return there[-1]
    has = ", ".join(one.revision for one in there) or "none"
    raise NotOnVolume(
        f"{model}{f'@{revision}' if revision else ''} is not in {s3.label} (revisions there: {has})",
        cure="pull it from the Hub, or cache it there first",
    )


def plan(parts: Parts, manifest: Manifest) -> Plan:
    """Say for each file of the snapshot whether the volume has it, or S3 must send it. Changes nothing."""
    listing = listing_of(manifest)
    choice = choose(listing, files=[file.path for file in listing.files if is_gguf(file.path)])
    rows = tuple(
        Row(
            RepositoryFile(file.path, file.size, file.sha256, None),
            Expected(file.size, file.sha256),
            "volume" if parts.volume.has_blob(file.sha256, file.size) else "s3",
        )
        for file in sorted(manifest.files, key=lambda file: file.size)
    )
    return Plan(listing, choice, rows, acquisition.need_bytes(parts, rows))


def fetch_file(parts: Parts, manifest: Manifest, row: Row, *, progress: Moved | None = None) -> Acquired:
    """Bring one file of the snapshot onto the volume, verified. Raises CorruptFile, TransferRefused, and what the
    transfer raises."""
    (segments,) = (file.segments for file in manifest.files if file.path == row.file.path)
    what = f"the manifest of {manifest.repository}@{manifest.revision[:8]} in {_s3(parts).label}"
    cure = "pull it from the Hub, and cache it again"
    if segments and len(segments) != -(-row.file.size // manifest.segment_bytes):
        found = f"{len(segments)} segments for {row.file.path}, which has {row.file.size} bytes"
        raise CorruptFile(f"{what} has {found}", cure=cure)
    acquired = restore_file(parts, row, segment_bytes=manifest.segment_bytes, progress=progress)
    # Whoever believed them later would take a sound blob for a damaged one.
    if same_kind(segments, acquired.file.segments) and segments != acquired.file.segments:
        raise CorruptFile(f"{what} has digests of segments that {row.file.path} has not", cure=cure)
    return acquired


def audit(parts: Parts, drawn: Plan, acquired: Sequence[Acquired]) -> Audited:
    """Audit the GGUF and the chat template among files that are blobs of the volume."""
    fetched = [one for one in acquired if one.file.path not in DERIVED]
    audited = audit_acquired(parts, drawn.listing, drawn.choice, fetched)
    template = next((one.file for one in acquired if one.file.path == TEMPLATE_FILE), None)
    if template is not None and template.sha256 != audited.chat.sha256:
        source = parts.volume.blob_path(template.sha256).read_text(encoding="utf-8", errors="replace")
        findings = audit_template(source, bos=audited.chat.bos, eos=audited.chat.eos)
        what = f"{TEMPLATE_FILE} of {drawn.listing.model}@{drawn.listing.revision[:8]} in {_s3(parts).label}"
        require_accepted(what, verdict_of(findings), findings)
    return audited


def publish(parts: Parts, manifest: Manifest, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible on the volume as it is in S3. Raises ModelRejected."""
    what = f"{manifest.repository}@{manifest.revision[:8]}"
    require_accepted(what, audited.audit.verdict, audited.audit.findings)
    parts.volume.publish(manifest)
    return Published(manifest, sum(one.transferred_bytes for one in acquired))


def restore(
    parts: Parts, model: ModelName, *, ref: str | None = None, promote: bool = True, watch: Watch | None = None
) -> Restored:
    """Bring a snapshot from S3 onto the volume, and promote it unless told otherwise. The Hub is not asked, but for a
    branch or tag.

    Raises the errors of each phase (`paddock.errors`); whatever it raises, the model that was promoted before is
    untouched.
    """
    began = time.monotonic()
    manifest = find(parts, model, ref)
    parts.volume.prepare()
    drawn = plan(parts, manifest)
    acquisition.require_place(parts, drawn, replace_promoted=promote)
    parts.volume.require_room(drawn.need_bytes)
    if watch:
        watch.begin(drawn.fetch_bytes)
    moved = watch.moved if watch else None
    acquired = tuple(fetch_file(parts, manifest, row, progress=moved) for row in drawn.rows)
    publish(parts, manifest, acquired, audit(parts, drawn, acquired))
    if promote:
        promotion.promote(parts, model, manifest.revision, reason="restored from S3", wait_for_s3=False)
    path = parts.volume.model_path(model) if promote else parts.volume.snapshot_path(model, manifest.revision)
    return Restored(path, manifest, acquired, promote, time.monotonic() - began)


def reach(parts: Parts, model: ModelName, ref: str | None = None) -> Manifest:
    """The snapshot of a revision on the volume; without one, of what is promoted there, or else in S3. What the volume
    lacks is brought from S3, and not promoted: so a worker with a volume of its own comes by what others onboarded.

    Raises NotOnVolume where neither store has it, and as `restore`.
    """
    ref = ref or parts.volume.promoted(model) or (parts.s3.promoted(model) if parts.s3 is not None else None)
    try:
        return promotion.snapshot_of(parts, model, ref)
    except NotOnVolume:
        if parts.s3 is None:
            raise
    return restore(parts, model, ref=ref, promote=False).manifest


def _s3(parts: Parts) -> S3Store:
    if parts.s3 is None:
        raise BadSetting(
            "PADDOCK_S3_URI is not set: there is nothing to restore from", cure="set it to s3://bucket/prefix"
        )
    return parts.s3
