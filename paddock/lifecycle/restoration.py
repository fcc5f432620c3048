"""Restoring a snapshot from S3 onto a volume, without the Hub.

The snapshot becomes what it was where it was published: the same manifest, the same files. That somebody published it
is no reason to believe it, since others can write to a bucket: every byte is hashed on its way, the GGUF is audited
anew, and a chat template that this Paddock would not have chosen is audited too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddock.chat.audit import audit_template
from paddock.chat.template import DERIVED, TEMPLATE_FILE
from paddock.errors import BadSetting, CorruptFile, NotOnVolume, SnapshotDiffers
from paddock.lifecycle import acquisition, promotion
from paddock.lifecycle.acquisition import Plan, Published
from paddock.lifecycle.auditing import Audited, audit_acquired, require_accepted
from paddock.lifecycle.delivery import Acquired, Row, restore_file
from paddock.lifecycle.listing import listing_of
from paddock.lifecycle.locating import locate, locate_in, shown_at
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Manifest, RepositoryFile
from paddock.model.finding import verdict_of
from paddock.model.quantization import is_gguf
from paddock.model.reference import Reference, SnapshotId
from paddock.model.source import Expected
from paddock.planning.choice import choose
from paddock.store.s3 import S3Store
from paddock.store.store import same_files
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
            "variant": self.manifest.variant,
            "quantization": self.manifest.quantization,
            "promoted": self.promoted,
            "files": [
                {"path": one.file.path, "size": one.file.size, "sha256": one.file.sha256, "source": one.origin}
                for one in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
            "seconds": round(self.seconds, 3),
        }


def find(parts: Parts, wanted: Reference) -> Manifest:
    """The snapshot in S3 that a reference means (`locating`).

    Raises BadSetting where no S3 is set, and NotOnVolume that lists what is there.
    """
    return locate_in(_s3(parts), parts, wanted, cure="pull it from the Hub, or cache it there first")


def plan(parts: Parts, manifest: Manifest) -> Plan:
    """Say for each file of the snapshot whether the volume has it, or S3 must send it. Changes nothing. Raises
    SnapshotDiffers for a snapshot of that name with other files."""
    with suppress(CorruptFile):  # what cannot be read is replaced
        there = parts.volume.snapshot(manifest.id)
        if there is not None and not same_files(there, manifest):
            raise SnapshotDiffers(
                f"{manifest.id} is on {parts.volume.label} with other files than in S3, and a snapshot is never"
                " replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then restore it again",
            )
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
    choice = replace(choice, variant=manifest.variant)
    return Plan(manifest.id, listing, choice, rows, acquisition.need_bytes(parts, rows))


def fetch_file(parts: Parts, manifest: Manifest, row: Row, *, progress: Moved | None = None) -> Acquired:
    """Bring one file of the snapshot onto the volume, verified. Raises CorruptFile, TransferRefused, and what the
    transfer raises."""
    (segments,) = (file.segments for file in manifest.files if file.path == row.file.path)
    what = f"the manifest of {manifest.id.short} in {_s3(parts).label}"
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
        what = f"{TEMPLATE_FILE} of {drawn.id.short} in {_s3(parts).label}"
        require_accepted(what, verdict_of(findings), findings)
    return audited


def publish(parts: Parts, manifest: Manifest, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible on the volume as it is in S3. Raises ModelRejected."""
    require_accepted(manifest.id.short, audited.audit.verdict, audited.audit.findings)
    parts.volume.publish(manifest)
    there = parts.volume.snapshot(manifest.id) or manifest
    return Published(there, sum(one.transferred_bytes for one in acquired))


def becomes_default(parts: Parts, id: SnapshotId) -> bool:
    """Whether a restored variant becomes the model's default: where it is the default in S3, or neither S3 nor the
    volume has one. S3 is told of what is promoted, so that a default of this volume alone would become the fleet's."""
    there = _s3(parts).promoted(id.model).default
    return there == id.variant or (there is None and parts.volume.promoted(id.model).default is None)


def restore(parts: Parts, wanted: Reference, *, promote: bool = True, watch: Watch | None = None) -> Restored:
    """Bring a snapshot from S3 onto the volume, and promote it unless told otherwise. The Hub is not asked, but for a
    branch or tag.

    Raises the errors of each phase (`paddock.errors`); whatever it raises, what was promoted before is untouched.
    """
    began = time.monotonic()
    manifest = find(parts, wanted)
    parts.volume.prepare()
    drawn = plan(parts, manifest)
    default = becomes_default(parts, manifest.id)
    if promote:
        parts.volume.check_names(manifest.model, manifest.variant, default=default)
    parts.volume.require_room(drawn.need_bytes)
    if watch:
        watch.begin(drawn.fetch_bytes)
    moved = watch.moved if watch else None
    acquired = tuple(fetch_file(parts, manifest, row, progress=moved) for row in drawn.rows)
    manifest = publish(parts, manifest, acquired, audit(parts, drawn, acquired)).manifest
    if promote:
        promotion.promote(parts, manifest.id, reason="restored from S3", default=default, wait_for_s3=False)
    path = shown_at(parts, manifest.id, promoted=promote)
    return Restored(path, manifest, acquired, promote, time.monotonic() - began)


def reach(parts: Parts, wanted: Reference) -> Manifest:
    """The snapshot on the volume that a reference means, or else the one in S3. What the volume lacks is brought from
    S3, and not promoted: so a worker with a volume of its own comes by what others onboarded.

    Raises NotOnVolume where neither store has it, and as `restore`.
    """
    promoted = parts.volume.promoted(wanted.model)
    if wanted.ref is None and parts.s3 is not None:
        here = promoted.default_id if wanted.variant is None else promoted.of(wanted.variant)
        if here is None:  # what is promoted in S3 comes before what merely lies here
            with suppress(NotOnVolume):
                wanted = _exact(find(parts, wanted).id)
    try:
        return locate(parts, wanted)
    except NotOnVolume:
        if parts.s3 is None:
            raise
    return restore(parts, wanted, promote=False).manifest


def _exact(id: SnapshotId) -> Reference:
    return Reference(id.model, id.variant, id.revision)


def _s3(parts: Parts) -> S3Store:
    if parts.s3 is None:
        raise BadSetting(
            "PADDOCK_S3_URI is not set: there is nothing to restore from", cure="set it to s3://bucket/prefix"
        )
    return parts.s3
