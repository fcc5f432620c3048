"""The blobs that manifests name: each blob once, with every file of a snapshot that has its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import SegmentDigest, Sha256


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """A blob, and the files of snapshots that have its bytes, as (manifest, file); at least one."""

    sha256: Sha256
    size: int
    uses: tuple[tuple[Manifest, SnapshotFile], ...]

    @property
    def path(self) -> str:
        """The path of the first file that has its bytes."""
        return self.uses[0][1].path

    @property
    def segment_bytes(self) -> int:
        return self._described[0].segment_bytes

    @property
    def segments(self) -> tuple[SegmentDigest, ...]:
        """The digests of its segments of `segment_bytes`; empty where no manifest has all of them."""
        manifest, file = self._described
        return file.segments if _is_complete(manifest, file) else ()

    @property
    def file(self) -> SnapshotFile:
        """The file to which `segments` belong."""
        return self._described[1]

    @property
    def _described(self) -> tuple[Manifest, SnapshotFile]:
        return next((use for use in self.uses if _is_complete(*use)), self.uses[0])


def named_blobs(manifests: Iterable[Manifest]) -> dict[Sha256, NamedBlob]:
    """The blobs that the manifests name, in the order of their first file."""
    uses: dict[Sha256, list[tuple[Manifest, SnapshotFile]]] = {}
    for manifest in manifests:
        for file in manifest.files:
            uses.setdefault(file.sha256, []).append((manifest, file))
    return {sha256: NamedBlob(sha256, of_blob[0][1].size, tuple(of_blob)) for sha256, of_blob in uses.items()}


def _is_complete(manifest: Manifest, file: SnapshotFile) -> bool:
    """Whether a manifest has a digest for each segment of a file; an empty file has no segment."""
    return bool(file.segments) and len(file.segments) == -(-file.size // manifest.segment_bytes)
