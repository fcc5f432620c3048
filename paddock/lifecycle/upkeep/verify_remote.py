"""Verify the snapshots of the remote store: read every object by ranges, and replace damaged ones.

A damaged object is replaced by the volume's blob, which is verified while it is sent, or by what the Hub sends. Parts
without damage are copied by the service where it can. The damaged object stays until the other one is complete: it may
be the last copy of what is sound of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from paddock.errors import BlobMissing, CorruptFile, PaddockError
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.upkeep.blob_repair import BlobRepairs
from paddock.lifecycle.upkeep.verify import Verified, VerifiedBlob, VerifiedFile, record_verified, verify_with
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.store import repair
from paddock.store.blob_check import FROM_THE_START, SOUND, BlobCheck, Pace, Start, compare
from paddock.store.named_blobs import NamedBlob, named_blobs
from paddock.store.remote.object_bytes import ObjectBytes
from paddock.store.volume.verifications import in_remote


class RemoteVerifier:
    """Verifies blobs of the remote store one by one, as `VolumeVerifier` does those of the volume. A success is
    recorded on the volume, with the tag of the object. Raises BadSetting where no remote store is set."""

    def __init__(self, clients: Clients, *, repair_damage: bool) -> None:
        self._clients = clients
        self._remote = require_remote(clients)
        self._repairs = BlobRepairs(clients) if repair_damage else None
        self.label = self._remote.label
        self.where = in_remote(self.label)

    def blobs(self) -> dict[Sha256, NamedBlob]:
        return named_blobs(self._remote.snapshots())

    def identity(self, blob: NamedBlob) -> str:
        """The object's tag; "" where there is none of the blob's size."""
        return self._remote.blob_tag(blob.sha256, blob.size) or ""

    def last_verified(self, blob: NamedBlob) -> datetime | None:
        """When the object was last verified, whatever its tag is now: one that was replaced is read in its turn."""
        last = self._clients.volume.verifications.last(blob.sha256, self.where)
        return None if last is None else last.at

    def verify(self, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START) -> VerifiedBlob:
        """Read an object from `start` on. Raises OutOfTime."""
        problem, transferred_bytes, is_repaired = "", 0, False
        try:
            tag = self.identity(blob)
            check = self._compare(blob, pace, start) if tag else BlobCheck("is missing, or has another size")
        except PaddockError as error:
            tag, check, problem = "", BlobCheck(problem=error.message), str(error)
        self._record(blob, tag if check.ok else "", check)
        if check.damage and self._repairs is not None:
            try:
                transferred_bytes = self._replace(blob, check, self._repairs)
                is_repaired = True
                self._record(blob, self.identity(blob), SOUND)
            except PaddockError as error:
                problem = str(error)
        files = tuple(
            VerifiedFile(
                id=manifest.id,
                path=file.path,
                size_bytes=file.size,
                sha256=file.sha256,
                ok=check.ok or is_repaired,
                bad_segments=check.bad_segments,
                damage="" if check.ok else check.damage or "cannot be read",
                repaired_bytes=0 if number else transferred_bytes,
            )
            for number, (manifest, file) in enumerate(blob.uses)
        )
        return VerifiedBlob(files, (problem,) if problem else ())

    def _compare(self, blob: NamedBlob, pace: Pace, start: Start) -> BlobCheck:
        stored = ObjectBytes(self._remote.source(blob.file), stall_s=self._clients.settings.stall_s)
        try:
            return compare(stored, blob, pace, start)
        finally:
            stored.close()

    def _record(self, blob: NamedBlob, tag: str, check: BlobCheck) -> None:
        verifications = self._clients.volume.verifications
        if not self._clients.volume.exists:
            return
        with self._clients.volume.recording():
            if check.ok and tag:
                verifications.record(blob.sha256, self.where, tag=tag)
            elif check.damage:
                verifications.forget(blob.sha256, self.where)

    def _replace(self, blob: NamedBlob, check: BlobCheck, repairs: BlobRepairs) -> int:
        """Replace a damaged object, and return the number of bytes transferred. Raises CorruptFile where neither the
        volume nor the Hub has the bytes, and the errors of the store."""
        volume = self._clients.volume
        try:
            return self._send(blob, check)
        except BlobMissing:
            pass
        except CorruptFile:
            repair.quarantine(volume, blob.sha256)
        volume.disk.prepare()
        volume.disk.require(blob.size, files=1)
        staged = repairs.fetch_from_hub(blob)
        if staged is None:  # another process added it to the volume meanwhile
            return self._send(blob, check)
        try:
            sent_bytes = self._remote.put_blob(
                staged.path, blob.file, segment_bytes=blob.segment_bytes, damaged=check.bad_segments
            )
        finally:
            staged.discard()
        return staged.transferred_bytes + sent_bytes

    def _send(self, blob: NamedBlob, check: BlobCheck) -> int:
        """Send the volume's blob. Raises BlobMissing, CorruptFile."""
        path = self._clients.volume.blob_path(blob.sha256)
        return self._remote.put_blob(path, blob.file, segment_bytes=blob.segment_bytes, damaged=check.bad_segments)


def verify_remote(
    clients: Clients,
    manifests: Sequence[Manifest] | None = None,
    *,
    repair_damage: bool = False,
    pace: Pace | None = None,
) -> Verified:
    """Read every file of snapshots in the remote store, by default of all; with `repair_damage`, replace damaged
    objects. A repair that fails is reported in `problems`, and not raised. Raises BadSetting where no remote store is
    set, and the errors of its listing."""
    verifier = RemoteVerifier(clients, repair_damage=repair_damage)
    if manifests is not None:
        return verify_with(verifier, manifests, pace=pace or Pace())
    verified = verify_with(verifier, require_remote(clients).snapshots(), pace=pace or Pace())
    record_verified(clients, "s3", verified)
    return verified
