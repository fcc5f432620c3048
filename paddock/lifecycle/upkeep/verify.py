"""Verify stored snapshots: compare every byte with its digest, and repair what is damaged.

Each blob is read once, however many snapshots have it. A damaged one is quarantined; its repair fetches the damaged
segments alone (`blob_repair`). The snapshots of the remote store are verified by `verify_remote`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paddock.chat.template import DERIVED_FILES
from paddock.errors import CorruptFile, PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.blob_repair import BlobRepairs
from paddock.lifecycle.upkeep.volume_check import CheckedBlob, CheckedUse, check_blob
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.store.blob_check import Pace, describe_segments
from paddock.store.named_blobs import NamedBlob, named_blobs


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file of a snapshot, as it was read. `ok`: it is sound now. `bad_segments` are numbers from 0, empty where the
    manifest has no segment digests; `damage` says for people what was found, "" for a sound file; `repaired_bytes` were
    transferred to repair it."""

    id: SnapshotId
    path: str
    size_bytes: int
    sha256: Sha256
    ok: bool
    bad_segments: tuple[int, ...] = ()
    damage: str = ""
    repaired_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.id.model),
            "revision": self.id.revision,
            "variant": self.id.variant,
            "path": self.path,
            "sha256": self.sha256,
            "ok": self.ok,
            "bad_segments": list(self.bad_segments),
            "damage": self.damage,
            "repaired_bytes": self.repaired_bytes,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification in the store with the label `where`. `problems` are the reasons of failed repairs,
    and manifests that cannot be read; `ok` if no damage is left. `read_bytes` were read."""

    files: tuple[VerifiedFile, ...]
    problems: tuple[str, ...] = field(default=())
    unreadable: tuple[SnapshotId, ...] = ()
    where: str = ""
    read_bytes: int = 0

    @property
    def ok(self) -> bool:
        return all(file.ok for file in self.files) and not self.unreadable

    @property
    def transferred_bytes(self) -> int:
        return sum(file.repaired_bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "files": [file.to_json() for file in self.files],
            "ok": self.ok,
            "problems": list(self.problems),
            "bytes_read": self.read_bytes,
            "bytes_transferred": self.transferred_bytes,
        }


def verify(
    clients: Clients, manifests: Sequence[Manifest], *, repair_damage: bool = False, pace: Pace | None = None
) -> Verified:
    """Read every file of the snapshots, each blob once, and quarantine damaged blobs; with `repair_damage`, repair
    them. A repair that fails is reported in `problems`, and not raised."""
    pace = pace or Pace()
    checked: list[CheckedBlob] = []
    for blob in named_blobs(manifests).values():
        checked.append(check_blob(clients.volume, blob, pace))
        with clients.volume.recording():
            record(clients, checked[-1])
    files, problems = conclude(clients, checked, repair_damage=repair_damage)
    in_order = [files[manifest.id, file.path] for manifest in manifests for file in manifest.files]
    return Verified(tuple(in_order), problems, where=clients.volume.label, read_bytes=pace.read_bytes)


def verify_volume(clients: Clients, *, repair_damage: bool = False, pace: Pace | None = None) -> Verified:
    """As `verify`, for all snapshots of the volume, also those whose manifest cannot be read: with `repair_damage`, it
    is taken from the remote store."""
    unreadable: list[SnapshotId] = []
    problems: list[str] = []
    for id in clients.volume.ids():
        try:
            if clients.volume.snapshot(id) is not None:
                continue
            damage = f"{id.short} has lost its manifest: pull it again (`paddock pull {id}`)"
        except CorruptFile as error:
            damage = str(error)
        try:
            is_restored = repair_damage and _restore_manifest(clients, id)
        except PaddockError as error:
            damage, is_restored = f"{damage}; {error.message}", False
        if not is_restored:
            unreadable.append(id)
            problems.append(damage)
    verified = verify(clients, clients.volume.snapshots(), repair_damage=repair_damage, pace=pace)
    return replace(verified, problems=(*problems, *verified.problems), unreadable=tuple(unreadable))


def _restore_manifest(clients: Clients, id: SnapshotId) -> bool:
    """Publish a snapshot again with its manifest in the remote store. False where that has none."""
    manifest = clients.remote.snapshot(id) if clients.remote is not None else None
    if manifest is None:
        return False
    clients.volume.publish(manifest)
    return True


def conclude(
    clients: Clients, checked: Sequence[CheckedBlob], *, repair_damage: bool
) -> tuple[dict[tuple[SnapshotId, str], VerifiedFile], tuple[str, ...]]:
    """Repair the damaged ones of the checked blobs if that is wanted. Returns (each file of a snapshot by id and path,
    the problems)."""
    files: dict[tuple[SnapshotId, str], VerifiedFile] = {}
    problems: list[str] = []
    repairs = BlobRepairs(clients)
    # Derived files last, since they are made of the others.
    for one in sorted(checked, key=lambda one: one.blob.path in DERIVED_FILES):
        problems += [use.check.problem for use in one.uses if use.check.problem]
        repaired_bytes, is_repaired = 0, False
        if repair_damage and not one.ok and not one.check.problem:
            try:
                repaired_bytes = repairs.repair(one.blob, sound_copy=one.sound_copy).transferred_bytes
                is_repaired = True
            except PaddockError as error:
                problems.append(str(error))
        for number, use in enumerate(one.uses):
            files[use.manifest.id, use.file.path] = VerifiedFile(
                id=use.manifest.id,
                path=use.file.path,
                size_bytes=use.file.size,
                sha256=use.file.sha256,
                ok=use.ok or is_repaired,
                bad_segments=use.check.bad_segments,
                damage=damage_of(one.blob, use),
                repaired_bytes=0 if number else repaired_bytes,
            )
    return files, tuple(dict.fromkeys(problems))


def record(clients: Clients, checked: CheckedBlob) -> None:
    """Record the time of a comparison that found a blob sound; forget it for another one."""
    verifications = clients.volume.verifications
    if checked.check.ok:
        verifications.record(checked.blob.sha256)
    elif checked.check.damage:
        verifications.forget(checked.blob.sha256)


def damage_of(blob: NamedBlob, use: CheckedUse) -> str:
    """What was found of a snapshot's file, for people: "" for a sound one."""
    if use.ok:
        return ""
    if use.check.bad_segments:
        return f"damaged in {describe_segments(blob, use.check.bad_segments)}"
    if use.check.ok:
        return "is sound, and not the blob that it should be a link to"
    return use.check.damage or "cannot be read"
