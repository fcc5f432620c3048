"""Reading stored snapshots again: is every byte still the one that was stored, and what is damaged repaired.

A damaged blob is put aside. The repair is a pull of the same snapshot: from S3 or the Hub, keeping every sound segment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
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
_Read = tuple[bool, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file of a snapshot as its bytes are. `bad_segments` are numbers from 0, where the manifest knows the segments;
    `repaired_bytes` came over the network for it."""

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
    """The result of a verification. `problems` say why a repair failed; `ok` when no damage stays."""

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


def verify(clients: Clients, manifests: Sequence[Manifest], *, mend: bool = False) -> Verified:
    """Read every file of the snapshots, each blob once, and put aside what is damaged; with `mend` pull the damaged
    snapshots again. A repair that is not possible now leaves the damage reported, and raises nothing."""
    seen: dict[_Inode, _Read] = {}
    files: list[VerifiedFile] = []
    problems: list[str] = []
    for manifest in manifests:
        of_snapshot = [_verified(clients, manifest, file, seen) for file in manifest.files]
        if mend and not all(file.ok for file in of_snapshot):
            of_snapshot, problem = _mended(clients, manifest, of_snapshot)
            problems += [problem] if problem else []
        files += of_snapshot
    return Verified(tuple(files), tuple(problems))


def _verified(clients: Clients, manifest: Manifest, file: SnapshotFile, seen: dict[_Inode, _Read]) -> VerifiedFile:
    path = clients.volume.snapshot_path(manifest.id) / file.path
    inode = _inode_of(path)
    read = seen.get(inode) if inode else None
    if read is None:
        read = _read(path, file, segment_bytes=manifest.segment_bytes)
        if not read[0]:
            repair.quarantine(clients.volume, file.sha256, found_at=path)
        if inode:
            seen[inode] = read
    return VerifiedFile(manifest.id, file.path, file.size, file.sha256, *read)


def _inode_of(path: Path) -> _Inode | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read(path: Path, file: SnapshotFile, *, segment_bytes: int) -> _Read:
    """(whether the bytes are right, the numbers of the segments that are not)."""
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
    bad = tuple(number for number, (came, stored_as) in enumerate(pairs) if came != stored_as)
    return digest.position == size == file.size and not digest.mismatch(expected), bad


def _mended(
    clients: Clients, manifest: Manifest, before: Sequence[VerifiedFile]
) -> tuple[list[VerifiedFile], str | None]:
    """The files after a pull of the snapshot, and why that failed where it did."""
    wanted = Reference(manifest.model, manifest.variant, manifest.revision)
    try:
        pulled = pull(clients, wanted, promote=False, target=UNBOUNDED)
    except PaddockError as error:
        return list(before), str(error)
    came = {one.file.sha256: one.transferred_bytes for one in pulled.acquired}
    after: list[VerifiedFile] = []
    for one, file in zip(before, manifest.files, strict=True):
        if one.ok:
            after.append(one)
            continue
        path = clients.volume.snapshot_path(manifest.id) / file.path
        ok, bad = _read(path, file, segment_bytes=manifest.segment_bytes)
        fetched = came.pop(file.sha256, 0)
        after.append(VerifiedFile(one.id, one.path, one.size_bytes, one.sha256, ok, bad or one.bad_segments, fetched))
    return after, None
