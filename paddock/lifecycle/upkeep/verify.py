"""Verify stored snapshots: compare every byte with its digest, and repair what is damaged.

Each blob is read once, however many snapshots have it. A damaged one is quarantined; its repair fetches the damaged
segments alone (`blob_repair`). The snapshots of the remote store are verified by `verify_remote`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from paddock.chat.template import DERIVED_FILES
from paddock.errors import CorruptFile, PaddockError
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossiers_with
from paddock.lifecycle.steps import PlainRunner
from paddock.lifecycle.upkeep.blob_repair import BlobRepairs
from paddock.lifecycle.upkeep.last_runs import ScrubRecord, StoreName, store_scrub
from paddock.lifecycle.upkeep.volume_check import CheckedUse, check_blob
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import SnapshotId
from paddock.store.blob_check import FROM_THE_START, SOUND, BlobCheck, Pace, Start
from paddock.store.named_blobs import NamedBlob, named_blobs
from paddock.store.volume.layout import ON_VOLUME


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
    and manifests that cannot be read; `ok` if no damage is left. `read_bytes` were read in `seconds`."""

    files: tuple[VerifiedFile, ...]
    problems: tuple[str, ...] = field(default=())
    unreadable: tuple[SnapshotId, ...] = ()
    where: str = ""
    read_bytes: int = 0
    seconds: float = 0.0

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
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class VerifiedBlob:
    """A blob as it was verified: each file of a snapshot that has its bytes, and why a repair failed."""

    files: tuple[VerifiedFile, ...]
    problems: tuple[str, ...] = ()


class VolumeVerifier:
    """Verifies blobs of the volume one by one; with `repair_damage`, each is repaired at once.

    A success is recorded under `where`. `blobs` are those that snapshots name; others are read as a whole by whoever
    uses them.
    """

    where = ON_VOLUME

    def __init__(self, clients: Clients, *, repair_damage: bool) -> None:
        self._clients = clients
        self._repairs = BlobRepairs(clients) if repair_damage else None
        self.label = clients.volume.label

    def blobs(self) -> dict[Sha256, NamedBlob]:
        return named_blobs(self._clients.volume.snapshots())

    def identity(self, blob: NamedBlob) -> str:
        """A value that differs once the blob was replaced."""
        return str(self._clients.volume.inode(self._clients.volume.blob_path(blob.sha256)))

    def last_verified(self, blob: NamedBlob) -> datetime | None:
        last = self._clients.volume.verifications.last(blob.sha256)
        return None if last is None else last.at

    def verify(self, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START) -> VerifiedBlob:
        """Read a blob from `start` on. Raises OutOfTime."""
        volume = self._clients.volume
        since_ns = time.time_ns()
        checked = check_blob(volume, blob, pace, start)
        problems = list(dict.fromkeys(use.check.problem for use in checked.uses if use.check.problem))
        if checked.is_stuck:
            problems.append(
                f"the damaged blob {blob.sha256} stays on {self.label}: it cannot be moved to the quarantine"
            )
        self._record(blob, checked.check)
        if checked.status is not None:
            volume.file_states.remember(blob.sha256, checked.status, since_ns=since_ns)
        repaired_bytes, is_repaired = 0, False
        if self._repairs is not None and not checked.is_whole and not problems:
            try:
                repaired_bytes = self._repairs.repair(blob, sound_copy=checked.sound_copy).transferred_bytes
                is_repaired = True
                self._record(blob, SOUND)
            except PaddockError as error:
                problems.append(str(error))
        if not checked.is_whole:
            refresh_dossiers_with(self._clients, blob.sha256)
        files = tuple(
            VerifiedFile(
                id=use.manifest.id,
                path=use.file.path,
                size_bytes=use.file.size,
                sha256=use.file.sha256,
                ok=use.ok or is_repaired,
                bad_segments=use.check.bad_segments,
                damage=_damage_of(use),
                repaired_bytes=0 if number else repaired_bytes,
            )
            for number, use in enumerate(checked.uses)
        )
        return VerifiedBlob(files, tuple(problems))

    def _record(self, blob: NamedBlob, check: BlobCheck) -> None:
        with self._clients.volume.recording():
            if check.ok:
                self._clients.volume.verifications.record(blob.sha256)
            elif check.damage:
                self._clients.volume.verifications.forget(blob.sha256, ON_VOLUME)


class Verifier(Protocol):
    """Verifies the blobs of one store. The members are those of `VolumeVerifier`."""

    where: str
    label: str

    def blobs(self) -> dict[Sha256, NamedBlob]: ...

    def identity(self, blob: NamedBlob) -> str: ...

    def last_verified(self, blob: NamedBlob) -> datetime | None: ...

    def verify(self, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START) -> VerifiedBlob: ...


def verify(
    clients: Clients, manifests: Sequence[Manifest], *, repair_damage: bool = False, pace: Pace | None = None
) -> Verified:
    """Read every file of the snapshots on the volume, each blob once, and quarantine damaged blobs; with
    `repair_damage`, repair them. A repair that fails is reported in `problems`, and not raised."""
    return verify_with(VolumeVerifier(clients, repair_damage=repair_damage), manifests, pace=pace or Pace())


def verify_with(verifier: Verifier, manifests: Sequence[Manifest], *, pace: Pace) -> Verified:
    """As `verify`, in any store."""
    started = time.monotonic()
    files: dict[tuple[SnapshotId, str], VerifiedFile] = {}
    problems: list[str] = []
    for blob in sorted(named_blobs(manifests).values(), key=is_derived):
        verified = verifier.verify(blob, pace)
        files |= {(file.id, file.path): file for file in verified.files}
        problems += verified.problems
    in_order = [files[manifest.id, file.path] for manifest in manifests for file in manifest.files]
    return Verified(
        tuple(in_order),
        tuple(dict.fromkeys(problems)),
        where=verifier.label,
        read_bytes=pace.read_bytes,
        seconds=time.monotonic() - started,
    )


def count_damaged(files: Collection[VerifiedFile]) -> tuple[int, int]:
    """(the blobs that were found damaged, how many of them are sound again)."""
    damaged = {file.sha256 for file in files if file.damage}
    return len(damaged), len(damaged - {file.sha256 for file in files if not file.ok})


def record_verified(clients: Clients, store: StoreName, verified: Verified) -> None:
    """Record a verification of all that a store has as its last scrub."""
    damaged, repaired = count_damaged(verified.files)
    record = ScrubRecord(verified.read_bytes, round(verified.seconds, 3), damaged, repaired, complete=True)
    store_scrub(clients, store, record)


def is_derived(blob: NamedBlob) -> bool:
    """Whether Paddock derived a file from the others: it is repaired last."""
    return blob.path in DERIVED_FILES


def verify_volume(clients: Clients, *, repair_damage: bool = False, pace: Pace | None = None) -> Verified:
    """As `verify`, for all snapshots of the volume, also those whose manifest cannot be read: with `repair_damage`, it
    is written again from the record of its publication, or taken from the remote store."""
    unreadable, problems = check_manifests(clients, repair_damage=repair_damage)
    verified = verify(clients, clients.volume.snapshots(), repair_damage=repair_damage, pace=pace)
    record_verified(clients, "volume", verified)
    return replace(verified, problems=(*problems, *verified.problems), unreadable=unreadable)


def check_manifests(
    clients: Clients, *, repair_damage: bool, model: ModelName | None = None
) -> tuple[tuple[SnapshotId, ...], tuple[str, ...]]:
    """Returns (the snapshots of the volume whose manifest cannot be read, a message for each). With `model`, those of
    that model."""
    unreadable: list[SnapshotId] = []
    problems: list[str] = []
    for id in clients.volume.ids(model):
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
    return tuple(unreadable), tuple(problems)


def _restore_manifest(clients: Clients, id: SnapshotId) -> bool:
    """Publish a snapshot again with its manifest as it was recorded on the volume, else with the files that its
    manifest in the remote store names: that one is made anew by an audit. False where neither has one."""
    if clients.volume.restore_manifest(id):
        return True
    if clients.remote is None or clients.remote.snapshot(id) is None:
        return False
    restore(PlainRunner(clients), id.reference, promote=False)
    return True


def _damage_of(use: CheckedUse) -> str:
    """What was found of a snapshot's file, for people: "" for a sound one."""
    if use.ok:
        return ""
    if use.check.ok:
        return "is sound, and has lost its blob"
    return use.check.damage or "cannot be read"
