"""Verify stored snapshots: read every file, compare it with its digest, and repair damaged ones.

A damaged blob is quarantined. The repair is a pull of the same snapshot, which fetches the damaged segments from the
remote store or the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paddock.errors import PaddockError
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import Sha256
from paddock.model.reference import Reference, SnapshotId
from paddock.model.source import Expected
from paddock.planning.targets import UNBOUNDED
from paddock.store import repair
from paddock.transfer.digest import digest_file

_Inode = tuple[int, int]
_ReadResult = tuple[bool, tuple[int, ...]]
"""(whether the digest is right, the numbers of the damaged segments from 0)."""


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file of a snapshot, as it was read. `bad_segments` are numbers from 0, empty where the manifest has no segment
    digests; `repaired_bytes` were fetched to repair the file."""

    id: SnapshotId
    path: str
    size_bytes: int
    sha256: Sha256
    ok: bool
    bad_segments: tuple[int, ...] = ()
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
            "repaired_bytes": self.repaired_bytes,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification. `problems` are the reasons of failed repairs; `ok` if no damage is left."""

    files: tuple[VerifiedFile, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return all(file.ok for file in self.files)

    @property
    def transferred_bytes(self) -> int:
        return sum(file.repaired_bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [file.to_json() for file in self.files],
            "ok": self.ok,
            "problems": list(self.problems),
            "bytes_transferred": self.transferred_bytes,
        }


def verify(clients: Clients, manifests: Sequence[Manifest], *, repair_damage: bool = False) -> Verified:
    """Read every file of the snapshots, each blob once, and quarantine damaged blobs; with `repair_damage`, pull the
    damaged snapshots again. A repair that fails is reported in `problems`, and not raised."""
    results: dict[_Inode, _ReadResult] = {}
    files: list[VerifiedFile] = []
    problems: list[str] = []
    for manifest in manifests:
        of_snapshot = [_verify_file(clients, manifest, file, results) for file in manifest.files]
        if repair_damage and not all(file.ok for file in of_snapshot):
            of_snapshot, problem = _pull_again(clients, manifest, of_snapshot)
            problems += [problem] if problem else []
        files += of_snapshot
    return Verified(tuple(files), tuple(problems))


def _verify_file(
    clients: Clients, manifest: Manifest, file: SnapshotFile, results: dict[_Inode, _ReadResult]
) -> VerifiedFile:
    """`results` holds the result of each inode that was read: snapshots share blobs."""
    path = clients.volume.snapshot_path(manifest.id) / file.path
    inode = _inode_of(path)
    result = results.get(inode) if inode else None
    if result is None:
        result = _read(path, file, segment_bytes=manifest.segment_bytes)
        if not result[0]:
            repair.quarantine(clients.volume, file.sha256, found_at=path)
        if inode:
            results[inode] = result
    return VerifiedFile(manifest.id, file.path, file.size, file.sha256, *result)


def _inode_of(path: Path) -> _Inode | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read(path: Path, file: SnapshotFile, *, segment_bytes: int) -> _ReadResult:
    expected = Expected(file.size, file.sha256)
    try:
        with path.open("rb", buffering=0) as stored:
            digest = digest_file(
                stored.fileno(), expected, segment_bytes=segment_bytes, like=next(iter(file.segments), None)
            )
            size = os.fstat(stored.fileno()).st_size
    except OSError:
        return False, ()
    pairs = zip(digest.segments, file.segments, strict=False)
    bad = tuple(number for number, (actual, recorded) in enumerate(pairs) if actual != recorded)
    return digest.position == size == file.size and not digest.mismatch(expected), bad


def _pull_again(
    clients: Clients, manifest: Manifest, before: Sequence[VerifiedFile]
) -> tuple[list[VerifiedFile], str | None]:
    """Repair a snapshot. Returns (its files after the pull, the reason of a failure or None)."""
    wanted = Reference(manifest.model, manifest.variant, manifest.revision)
    try:
        pulled = pull(clients, wanted, promote=False, target=UNBOUNDED)
    except PaddockError as error:
        return list(before), str(error)
    fetched_bytes = {item.file.sha256: item.transferred_bytes for item in pulled.acquired}
    after: list[VerifiedFile] = []
    for verified, file in zip(before, manifest.files, strict=True):
        if verified.ok:
            after.append(verified)
            continue
        path = clients.volume.snapshot_path(manifest.id) / file.path
        ok, bad = _read(path, file, segment_bytes=manifest.segment_bytes)
        bad_segments = bad or verified.bad_segments
        repaired_bytes = fetched_bytes.pop(file.sha256, 0)
        after.append(replace(verified, ok=ok, bad_segments=bad_segments, repaired_bytes=repaired_bytes))
    return after, None
