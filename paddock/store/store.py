"""What a store is: a place for blobs, snapshots, what is promoted, and reports.

A *blob* is bytes named by their sha256; a *snapshot* is a manifest whose blobs are all there, identified by model,
revision and variant, and never replaced by another one; what is *promoted* is one revision of each variant, and one
variant that is the default. In every store a manifest is written after its blobs, and a promotion after its manifest,
so that whatever dies in between leaves what was there before.

A store moves no bytes of its own accord: what copies between stores is `paddock.store.copying`, and what fetches is
`paddock.transfer`.
"""

from __future__ import annotations

from typing import Protocol

from paddock.errors import UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Sha256, parse_repository_path
from paddock.model.reference import SnapshotId
from paddock.store.history import Promoted

MANIFEST_NAME = "manifest.json"


class Store(Protocol):
    """Every method raises the errors of `paddock.errors` and no others. None retries beyond one request.

    An implementer must not trust what it reads back: others can write to a volume or a bucket, so that names and
    digests are parsed again, and a manifest that is not where it says it belongs is CorruptFile.
    """

    @property
    def label(self) -> str:
        """Which store, for people: `the volume /models`, `s3://bucket/prefix`. Holds no secret."""
        ...

    def has_blob(self, sha256: Sha256, size: int) -> bool:
        """Whether the blob is there with that size. The bytes are not read again."""
        ...

    def snapshot(self, id: SnapshotId) -> Manifest | None:
        """The manifest; None when it is not there. Raises CorruptFile."""
        ...

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        """Of one model or all, sorted by repository and creation. One that cannot be read is left out, with a
        warning."""
        ...

    def publish(self, manifest: Manifest) -> None:
        """Make the snapshot visible. Where one of that identity is there with the same files, it stays as it is.

        Raises BlobMissing when the store lacks a blob, and SnapshotDiffers when one with other files is there; then
        nothing has changed.
        """
        ...

    def promoted(self, model: ModelName) -> Promoted: ...

    def write_report(self, id: SnapshotId, name: str, text: str) -> str:
        """Replace a report as a whole, and return where it is. `name` is one file name."""
        ...

    def read_report(self, id: SnapshotId, name: str) -> str | None: ...


def check_manifest_name_is_free(manifest: Manifest) -> None:
    """Raise UnsafeName when a file of the repository would take the manifest's own name."""
    for file in manifest.files:
        if file.path.split("/", maxsplit=1)[0].casefold() == MANIFEST_NAME:
            raise UnsafeName(
                f"the file {file.path!r} of {manifest.repository} has the name of the snapshot's own manifest",
                cure="leave that file out",
            )


def same_files(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests of one identity name the same files. When and by which version they were published, and
    what the audit said then, may differ: the first one stands."""
    pairs = [{(file.path, file.sha256) for file in manifest.files} for manifest in (one, other)]
    return one.id == other.id and pairs[0] == pairs[1]


def check_report_name(name: str) -> str:
    """Return `name` unchanged. Raises UnsafeName for anything but one safe file name."""
    if "/" in name:
        raise UnsafeName(f"the report name {name[:80]!r} is not one file name", cure="give a name without '/'")
    return parse_repository_path(name)
