"""Restore a snapshot from the remote store onto the volume, without the Hub.

The snapshot has the same manifest and the same files as where it was published. It is not trusted for that, since
others can write to a bucket: every byte is hashed on its way, the GGUF is audited anew, and so is a chat template that
this version of Paddock would not have chosen.
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
from paddock.errors import CorruptFile, NotOnVolume, SnapshotDiffers
from paddock.lifecycle.acquire.fetch import fetch_remote_file
from paddock.lifecycle.acquire.plan import AcquisitionPlan, need_bytes
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.acquire.resolve import listing_of
from paddock.lifecycle.assess.audit import Audited, audit_acquired, require_accepted
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.locate import locate, locate_in, visible_path
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.lifecycle.steps import Kind, PlainRunner, Runner, step
from paddock.model.acquired import Acquired, PlannedFile
from paddock.model.artifact import Manifest, RepositoryFile
from paddock.model.finding import verdict_of
from paddock.model.quantization import is_gguf
from paddock.model.reference import Reference, SnapshotId
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.planning.file_selection import select_files
from paddock.store.manifests import same_files
from paddock.transfer.digest import same_algorithm
from paddock.transfer.progress import OnProgress


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore. `path` is the snapshot's directory, or the link that shows it where it was promoted."""

    path: Path
    published: Published
    promoted: bool
    seconds: float

    @property
    def manifest(self) -> Manifest:
        return self.published.manifest

    @property
    def acquired(self) -> tuple[Acquired, ...]:
        return self.published.acquired

    @property
    def transferred_bytes(self) -> int:
        return self.published.transferred_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            **self.published.to_json(),
            "promoted": self.promoted,
            "seconds": round(self.seconds, 3),
        }


@step(Kind.STORE, "find", line=lambda manifest: f"{manifest.id} is in S3, {human_bytes(manifest.size_bytes)}")
def find_remote(clients: Clients, wanted: Reference) -> Manifest:
    """The snapshot in S3 that a reference means (`locating`).

    Raises BadSetting where no S3 is set, and NotOnVolume that lists what is there.
    """
    return locate_in(require_remote(clients), clients, wanted, cure="pull it from the Hub, or cache it there first")


@step(Kind.LOCAL, "plan")
def plan_restore(clients: Clients, manifest: Manifest, *, default: bool | None) -> AcquisitionPlan:
    """Plan a restore as `plan`, and check that there is room for it. Where the snapshot will be promoted, `default`
    says whether as the default, and its names on the volume are checked; None: it is not promoted.

    Raises as `plan`, NotEnoughDisk, and NoPermission.
    """
    clients.volume.prepare()
    drawn = plan(clients, manifest)
    if default is not None:
        clients.volume.links.check_available(manifest.model, manifest.variant, default=default)
    clients.volume.disk.require(drawn.need_bytes)
    return drawn


def plan(clients: Clients, manifest: Manifest) -> AcquisitionPlan:
    """Say for each file of the snapshot whether the volume has it, or S3 must send it. Changes nothing. Raises
    SnapshotDiffers for a snapshot of that name with other files."""
    with suppress(CorruptFile):  # what cannot be read is replaced
        there = clients.volume.snapshot(manifest.id)
        if there is not None and not same_files(there, manifest):
            raise SnapshotDiffers(
                f"{manifest.id} is on {clients.volume.label} with other files than in S3, and a snapshot is never"
                " replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then restore it again",
            )
    listing = listing_of(manifest)
    choice = select_files(listing, files=[file.path for file in listing.files if is_gguf(file.path)])
    rows = tuple(
        PlannedFile(
            RepositoryFile(file.path, file.size, file.sha256, None),
            Expected(file.size, file.sha256),
            "volume" if clients.volume.has_blob(file.sha256, file.size) else "s3",
        )
        for file in sorted(manifest.files, key=lambda file: file.size)
    )
    choice = replace(choice, variant=manifest.variant)
    return AcquisitionPlan(manifest.id, listing, choice, rows, need_bytes(clients, rows))


@step(
    Kind.TRANSFER,
    "fetch-{planned.file.path}",
    line=lambda done: f"{done.file.path}: {human_bytes(done.transferred_bytes)} fetched, from {done.origin}",
)
def restore_file(
    clients: Clients, manifest: Manifest, planned: PlannedFile, *, progress: OnProgress | None = None
) -> Acquired:
    """Bring one file of the snapshot onto the volume, verified. Raises CorruptFile, TransferRefused, and what the
    transfer raises."""
    (segments,) = (file.segments for file in manifest.files if file.path == planned.file.path)
    what = f"the manifest of {manifest.id.short} in {require_remote(clients).label}"
    cure = "pull it from the Hub, and cache it again"
    if segments and len(segments) != -(-planned.file.size // manifest.segment_bytes):
        found = f"{len(segments)} segments for {planned.file.path}, which has {planned.file.size} bytes"
        raise CorruptFile(f"{what} has {found}", cure=cure)
    acquired = fetch_remote_file(clients, planned, segment_bytes=manifest.segment_bytes, progress=progress)
    # Whoever believed them later would take a sound blob for a damaged one.
    if same_algorithm(segments, acquired.file.segments) and segments != acquired.file.segments:
        raise CorruptFile(f"{what} has digests of segments that {planned.file.path} has not", cure=cure)
    return acquired


@step(Kind.LOCAL, "audit")
def audit_restored(clients: Clients, drawn: AcquisitionPlan, acquired: Sequence[Acquired]) -> Audited:
    """Audit the GGUF and the chat template among files that are blobs of the volume."""
    fetched = [one for one in acquired if one.file.path not in DERIVED]
    audited = audit_acquired(clients, drawn.listing, drawn.choice, fetched)
    template = next((one.file for one in acquired if one.file.path == TEMPLATE_FILE), None)
    if template is not None and template.sha256 != audited.chat.sha256:
        source = clients.volume.blob_path(template.sha256).read_text(encoding="utf-8", errors="replace")
        findings = audit_template(source, bos=audited.chat.bos, eos=audited.chat.eos)
        what = f"{TEMPLATE_FILE} of {drawn.id.short} in {require_remote(clients).label}"
        require_accepted(what, verdict_of(findings), findings)
    return audited


@step(Kind.LOCAL, "publish", line=lambda published: published.line)
def publish_restored(clients: Clients, manifest: Manifest, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible on the volume as it is in S3. Raises ModelRejected."""
    require_accepted(manifest.id.short, audited.audit.verdict, audited.audit.findings)
    clients.volume.publish(manifest)
    there = clients.volume.snapshot(manifest.id) or manifest
    return Published(there, tuple(acquired))


def becomes_default(clients: Clients, id: SnapshotId) -> bool:
    """Whether a restored variant becomes the model's default: where it is the default in S3, or neither S3 nor the
    volume has one. S3 is told of what is promoted, so that a default of this volume alone would become the fleet's."""
    there = require_remote(clients).promoted(id.model).default
    return there == id.variant or (there is None and clients.volume.promoted(id.model).default is None)


def restore(runner: Runner, wanted: Reference, *, promote: bool = True) -> Restored:
    """Bring a snapshot from the remote store onto the volume, and promote it unless told otherwise. The Hub is not
    asked, but for a branch or tag.

    Raises the errors of each step (`paddock.errors`); whatever it raises, what was promoted before is untouched.
    """
    began = time.monotonic()
    manifest = runner.run(find_remote, wanted)
    default = becomes_default(runner.clients, manifest.id) if promote else None
    plan = runner.run(plan_restore, manifest, default=default)
    listener = runner.listener(plan.id)
    listener.on_start(plan.fetch_bytes)
    acquired = tuple(runner.run(restore_file, manifest, one, progress=listener.on_progress) for one in plan.files)
    listener.on_finish(acquired)
    audited = runner.run(audit_restored, plan, acquired)
    published = runner.run(publish_restored, manifest, acquired, audited)
    if default is not None:
        runner.run(
            promote_snapshot,
            manifest.id,
            "restored from S3",
            default=default,
            wait_for_remote=False,
            operation=runner.operation,
        )
    path = visible_path(runner.clients, manifest.id, promoted=promote)
    return Restored(path, published, promote, time.monotonic() - began)


@step(Kind.TRANSFER, "reach", line=lambda manifest: f"{manifest.id} is on the volume")
def reach(clients: Clients, wanted: Reference) -> Manifest:
    """The snapshot on the volume that a reference means, or else the one in S3. What the volume lacks is brought from
    S3, and not promoted: so a worker with a volume of its own comes by what others onboarded.

    Raises NotOnVolume where neither store has it, and as `restore`.
    """
    promoted = clients.volume.promoted(wanted.model)
    if wanted.ref is None and clients.remote is not None:
        here = promoted.default_id if wanted.variant is None else promoted.of(wanted.variant)
        if here is None:  # what is promoted in S3 comes before what merely lies here
            with suppress(NotOnVolume):
                wanted = find_remote(clients, wanted).id.reference
    try:
        return locate(clients, wanted)
    except NotOnVolume:
        if clients.remote is None:
            raise
    return restore(PlainRunner(clients), wanted, promote=False).manifest
