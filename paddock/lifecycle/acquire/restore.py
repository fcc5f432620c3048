"""Restore a snapshot from the remote store onto the volume, without the Hub.

Others can write to a bucket, so its manifest is a hint: it says which files there are, and where. Each of them is
verified while it is fetched, by the digest that a snapshot of the same commit on the volume has, else by that of the
manifest. Everything that Paddock derives from the files is computed anew: segment digests, audit, verdict, chat
template, stop sequences.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paddock.chat.template import DERIVED_FILES
from paddock.errors import CorruptFile, NotOnVolume, SnapshotDiffers
from paddock.gguf.survey import survey_snapshot
from paddock.lifecycle.acquire.fetch import fetch_remote_file
from paddock.lifecycle.acquire.plan import AcquisitionPlan, need_bytes, stored_files, with_room
from paddock.lifecycle.acquire.publish import Published, publish_audited
from paddock.lifecycle.acquire.transfers import fetch_files
from paddock.lifecycle.assess.audit import Audited, audit_acquired
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.locate import locate, locate_in, visible_path
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import PlainRunner, Runner, step
from paddock.lifecycle.stored_listing import listing_of
from paddock.lifecycle.uses import record_use
from paddock.model.acquired import Acquired, Origin, PlannedFile
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile
from paddock.model.quantization import group_shards
from paddock.model.reference import Reference, SnapshotId
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.planning.file_selection import select_files
from paddock.store.manifests import same_files
from paddock.store.usage import Usage
from paddock.transfer.progress import OnProgress

log = logging.getLogger(__name__)


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
        if existing is not None and not same_files(existing, manifest, but=DERIVED_FILES):
            raise SnapshotDiffers(
                f"{manifest.id} is on {clients.volume.label} with other files than in S3, and a snapshot is never"
                " replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then restore it again",
            )
    listing = _with_known_digests(listing_of(manifest), stored_files(clients.volume, manifest.id))
    sets = group_shards((file.path, file.size) for file in listing.files)
    choice = select_files(listing, survey=survey_snapshot(sets), files=[path for one in sets for path in one.paths])
    rows = tuple(_planned(clients, file) for file in sorted(listing.files, key=lambda file: file.size))
    choice = replace(choice, variant=manifest.variant)
    return AcquisitionPlan(manifest.id, listing, choice, rows, need_bytes(clients, rows))


def _with_known_digests(listing: Listing, known: Mapping[str, SnapshotFile]) -> Listing:
    """A listing with the digests that the volume knows of files of the same commit."""

    def file_of(file: RepositoryFile) -> RepositoryFile:
        stored = known.get(file.path)
        return file if stored is None else RepositoryFile(file.path, stored.size, stored.sha256, None)

    return replace(listing, files=tuple(map(file_of, listing.files)))


def _planned(clients: Clients, file: RepositoryFile) -> PlannedFile:
    if file.sha256 is None:
        raise AssertionError("a file of a manifest has a digest")
    origin: Origin = "volume" if clients.volume.has_blob(file.sha256, file.size) else "s3"
    return PlannedFile(file, Expected(file.size, file.sha256), origin)


@step(
    Kind.TRANSFER,
    "fetch-{planned.file.path}",
    line=lambda acquired: (
        f"{acquired.file.path}: {human_bytes(acquired.transferred_bytes)} fetched, from {acquired.origin}"
    ),
)
def restore_file(
    clients: Clients,
    manifest: Manifest,
    planned: PlannedFile,
    *,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Fetch one file of the snapshot onto the volume, and verify it. Raises CorruptFile, TransferRefused, and the
    errors of the transfer."""
    return fetch_remote_file(
        clients,
        manifest.model,
        planned,
        segment_bytes=clients.settings.segment_bytes,
        progress=progress,
        cancel=cancel,
    )


@step(Kind.LOCAL, "audit", warnings=lambda audited: audited.notes)
def audit_restored(clients: Clients, plan: AcquisitionPlan, acquired: Sequence[Acquired]) -> Audited:
    """Audit the GGUF and the chat template of the fetched files."""
    return audit_acquired(clients, plan.listing, plan.choice, acquired)


@step(Kind.LOCAL, "publish", line=lambda published: published.line)
def publish_restored(
    clients: Clients, manifest: Manifest, plan: AcquisitionPlan, acquired: Sequence[Acquired], audited: Audited
) -> Published:
    """Publish the fetched files on the volume, with what the audit found now. Of the manifest in the remote store, the
    time of the first publication is kept, unless it is in the future. Raises ModelRejected."""
    created_at = min(manifest.created_at, datetime.now(UTC))
    return publish_audited(clients, plan, acquired, audited, created_at=created_at)


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
    acquired = fetch_files(
        runner,
        plan.files,
        lambda planned, progress, cancel: runner.run(restore_file, manifest, planned, progress=progress, cancel=cancel),
        listener,
    )
    transfer_s = time.monotonic() - transfer_began
    listener.on_finish(acquired)
    audited = runner.run(audit_restored, plan, acquired)
    published = runner.run(publish_restored, manifest, plan, acquired, audited)
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
            try:
                wanted = find_remote(clients, wanted).id.reference
            except NotOnVolume:
                pass
            except CorruptFile as error:
                log.warning("%s; it is not used", error.message)
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
