"""Restore a snapshot from the remote store onto the volume, without the Hub.

The restored snapshot has the manifest and the files that it was published with. They are not trusted, since others can
write to a bucket: every file is verified while it is fetched, the GGUF is audited again, and so is a chat template that
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
from paddock.chat.protocol import MAX_SOURCE_BYTES
from paddock.chat.template import DERIVED_FILES, TEMPLATE_FILE
from paddock.errors import CorruptFile, NotOnVolume, SnapshotDiffers
from paddock.gguf.survey import survey_snapshot
from paddock.lifecycle.acquire.fetch import fetch_remote_file
from paddock.lifecycle.acquire.plan import AcquisitionPlan, need_bytes, with_room
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.audit import Audited, audit_acquired, require_accepted
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.locate import locate, locate_in, visible_path
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import PlainRunner, Runner, step
from paddock.lifecycle.stored_listing import listing_of
from paddock.lifecycle.uses import record_use
from paddock.model.acquired import Acquired, PlannedFile
from paddock.model.artifact import Manifest, RepositoryFile
from paddock.model.finding import verdict_of
from paddock.model.quantization import group_shards
from paddock.model.reference import Reference, SnapshotId
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.planning.file_selection import select_files
from paddock.store.manifests import same_files
from paddock.store.usage import Usage
from paddock.transfer.digest import same_algorithm
from paddock.transfer.progress import OnProgress
from paddock.untrusted.files import read_head


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore. `path` is the snapshot's directory; for a promoted snapshot, the link to it."""

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
    """The snapshot in the remote store that a reference names (`paddock.lifecycle.locate`).

    Raises BadSetting where no remote store is set, and NotOnVolume, which lists the model's snapshots.
    """
    return locate_in(require_remote(clients), clients, wanted, cure="pull it from the Hub, or cache it there first")


@step(Kind.STORE, "plan", warnings=lambda planned: planned.warnings)
def plan_restore(clients: Clients, manifest: Manifest, *, default: bool | None) -> AcquisitionPlan:
    """Plan a restore, and check that the volume has space, for which old snapshots may be evicted. If the snapshot will
    be promoted, `default` says whether as the default, and the links on the volume are checked; None: it will not be
    promoted.

    Raises as `plan`, NotEnoughDisk, and NoPermission.
    """
    clients.volume.prepare()
    planned = plan(clients, manifest)
    if default is not None:
        clients.volume.links.check_available(manifest.model, manifest.variant, default=default)
    return with_room(clients, planned)


def plan(clients: Clients, manifest: Manifest) -> AcquisitionPlan:
    """Plan the origin of each file of the snapshot: the volume, or the remote store. Changes nothing. Raises
    SnapshotDiffers for a snapshot of that name with other files on the volume."""
    with suppress(CorruptFile):  # a damaged manifest is replaced
        existing = clients.volume.snapshot(manifest.id)
        if existing is not None and not same_files(existing, manifest):
            raise SnapshotDiffers(
                f"{manifest.id} is on {clients.volume.label} with other files than in S3, and a snapshot is never"
                " replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then restore it again",
            )
    listing = listing_of(manifest)
    sets = group_shards((file.path, file.size) for file in listing.files)
    choice = select_files(listing, survey=survey_snapshot(sets), files=[path for one in sets for path in one.paths])
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
    line=lambda acquired: (
        f"{acquired.file.path}: {human_bytes(acquired.transferred_bytes)} fetched, from {acquired.origin}"
    ),
)
def restore_file(
    clients: Clients, manifest: Manifest, planned: PlannedFile, *, progress: OnProgress | None = None
) -> Acquired:
    """Fetch one file of the snapshot onto the volume, and verify it. Raises CorruptFile, TransferRefused, and the
    errors of the transfer."""
    (segments,) = (file.segments for file in manifest.files if file.path == planned.file.path)
    what = f"the manifest of {manifest.id.short} in {require_remote(clients).label}"
    cure = "pull it from the Hub, and cache it again"
    if segments and len(segments) != -(-planned.file.size // manifest.segment_bytes):
        difference = f"{len(segments)} segments for {planned.file.path}, which has {planned.file.size} bytes"
        raise CorruptFile(f"{what} has {difference}", cure=cure)
    acquired = fetch_remote_file(
        clients, manifest.model, planned, segment_bytes=manifest.segment_bytes, progress=progress
    )
    # With wrong segment digests a sound blob would later be taken for a damaged one.
    if same_algorithm(segments, acquired.file.segments) and segments != acquired.file.segments:
        raise CorruptFile(f"{what} has segment digests that differ from those of {planned.file.path}", cure=cure)
    return acquired


@step(Kind.LOCAL, "audit")
def audit_restored(clients: Clients, plan: AcquisitionPlan, acquired: Sequence[Acquired]) -> Audited:
    """Audit the GGUF and the chat template of the fetched files."""
    fetched = [item for item in acquired if item.file.path not in DERIVED_FILES]
    audited = audit_acquired(clients, plan.listing, plan.choice, fetched)
    template = next((item.file for item in acquired if item.file.path == TEMPLATE_FILE), None)
    if template is not None and audited.chat is not None and template.sha256 != audited.chat.sha256:
        with clients.volume.reading_blob(template.sha256) as path:
            source = read_head(path, max_bytes=MAX_SOURCE_BYTES + 1).decode(errors="replace")
        findings = audit_template(source, bos=audited.chat.bos, eos=audited.chat.eos)
        what = f"{TEMPLATE_FILE} of {plan.id.short} in {require_remote(clients).label}"
        require_accepted(what, verdict_of(findings), findings)
    return audited


@step(Kind.LOCAL, "publish", line=lambda published: published.line)
def publish_restored(
    clients: Clients,
    manifest: Manifest,
    acquired: Sequence[Acquired],
    audited: Audited,
    *,
    evicted: tuple[EvictionRow, ...] = (),
) -> Published:
    """Publish the snapshot on the volume with its manifest in the remote store. Raises ModelRejected."""
    require_accepted(manifest.id.short, audited.audit.verdict, audited.audit.findings)
    clients.volume.publish(manifest)
    published = clients.volume.snapshot(manifest.id) or manifest
    refresh_dossier(clients, published)  # what was damaged is whole again
    return Published(published, tuple(acquired), evicted=evicted)


def becomes_default(clients: Clients, id: SnapshotId) -> bool:
    """Whether a restored variant becomes the model's default: if it is the default in the remote store, or if neither
    the remote store nor the volume has one. A promotion is written to the remote store too, so that any other default
    of this volume would become that of the whole fleet."""
    remote_default = require_remote(clients).promoted(id.model).default
    if remote_default is None:
        return clients.volume.promoted(id.model).default is None
    return remote_default == id.variant


def restore(runner: Runner, wanted: Reference, *, promote: bool = True) -> Restored:
    """Copy a snapshot from the remote store onto the volume; with `promote`, promote it. The Hub is only asked to
    resolve a branch or tag.

    Raises the errors of each step (`paddock.errors`). Where it raises before the promotion, the promoted snapshot is
    unchanged.
    """
    began = time.monotonic()
    manifest = runner.run(find_remote, wanted)
    default = becomes_default(runner.clients, manifest.id) if promote else None
    plan = runner.run(plan_restore, manifest, default=default)
    listener = runner.listener(plan.id)
    listener.on_start(plan.fetch_bytes)
    transfer_began = time.monotonic()
    acquired = tuple(
        runner.run(restore_file, manifest, planned, progress=listener.on_progress) for planned in plan.files
    )
    transfer_s = time.monotonic() - transfer_began
    listener.on_finish(acquired)
    audited = runner.run(audit_restored, plan, acquired)
    published = runner.run(publish_restored, manifest, acquired, audited, evicted=plan.evicted)
    record_use(runner.clients, manifest.id, "restore", Usage(uses=1, seconds=transfer_s))
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


@step(Kind.TRANSFER, "locate-or-restore", line=lambda manifest: f"{manifest.id} is on the volume")
def locate_or_restore(clients: Clients, wanted: Reference) -> Manifest:
    """The snapshot that a reference names, on the volume, else in the remote store; then it is restored onto the volume
    and not promoted. So a worker with a volume of its own gets what others onboarded.

    Raises NotOnVolume where neither store has it, and as `restore`.
    """
    promoted = clients.volume.promoted(clients.volume.spelled(wanted.model))
    if wanted.ref is None and clients.remote is not None:
        promoted_id = promoted.default_id if wanted.variant is None else promoted.of(wanted.variant)
        if promoted_id is None:  # a promoted snapshot in the remote store precedes one here that is not promoted
            with suppress(NotOnVolume):
                wanted = find_remote(clients, wanted).id.reference
    try:
        return locate(clients, wanted)
    except NotOnVolume:
        if clients.remote is None:
            raise
    return restore(PlainRunner(clients), wanted, promote=False).manifest


@step(Kind.TRANSFER, "locate-promoted", line=lambda found: f"{found.id} is on the volume" if found else "none")
def locate_replaced(clients: Clients, manifest: Manifest) -> Manifest | None:
    """The snapshot that a promotion of `manifest` would replace on the volume, else in the remote store; then it is
    restored as by `locate_or_restore`. None where it would replace nothing."""
    stores = (clients.volume, *([clients.remote] if clients.remote else []))
    replaced = (store.promoted(manifest.model).replaced_by(manifest.id) for store in stores)
    id = next((id for id in replaced if id is not None), None)
    return locate_or_restore(clients, id.reference) if id else None
