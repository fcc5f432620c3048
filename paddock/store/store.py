"""What a store is: a place for blobs, snapshots, refs and reports.

A *blob* is bytes named by their sha256; a *snapshot* is a manifest whose blobs are all there; the *ref* of a model says
which of its snapshots is promoted. In every store a manifest is written after its blobs, and a ref after its manifest,
so that whatever dies in between leaves what was there before.

A revision has one snapshot. Publishing another choice of its files (Q4_K_M after Q8_0) replaces it as a whole, and the
manifest is that of the new choice: readers see the one or the other, never a mixture. The blobs of the old choice stay
until they are collected, so that going back to them costs no download.

A store moves no bytes of its own accord: what copies between stores is `paddock.store.copying`, and what fetches is
`paddock.transfer`.
"""

from __future__ import annotations

from typing import Protocol

from paddock.errors import UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, Sha256, parse_repository_path

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

    def snapshot(self, model: ModelName, revision: Revision) -> Manifest | None:
        """The manifest; None when it is not there. Raises CorruptFile."""
        ...

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        """Of one model or all, sorted by repository and creation. One that cannot be read is left out, with a
        warning."""
        ...

    def publish(self, manifest: Manifest) -> None:
        """Make the snapshot visible. Does nothing when it is there already, but for `created_at`.

        Raises BlobMissing when the store lacks a blob, and then nothing has changed.
        """
        ...

    def promoted(self, model: ModelName) -> Revision | None: ...

    def promote(self, model: ModelName, revision: Revision, *, reason: str) -> Revision | None:
        """Point the model's ref at a published snapshot, and return what it pointed at before. Raises NotOnVolume."""
        ...

    def write_report(self, model: ModelName, revision: Revision, name: str, text: str) -> str:
        """Replace a report as a whole, and return where it is. `name` is one file name."""
        ...

    def read_report(self, model: ModelName, revision: Revision, name: str) -> str | None: ...


def check_manifest_name_is_free(manifest: Manifest) -> None:
    """Raise UnsafeName when a file of the repository would take the manifest's own name."""
    for file in manifest.files:
        if file.path.split("/", maxsplit=1)[0].casefold() == MANIFEST_NAME:
            raise UnsafeName(
                f"the file {file.path!r} of {manifest.repository} has the name of the snapshot's own manifest",
                cure="leave that file out",
            )


def same_snapshot(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests say the same, but for when it was said."""
    return one.model_copy(update={"created_at": other.created_at}) == other


def check_report_name(name: str) -> str:
    """Return `name` unchanged. Raises UnsafeName for anything but one safe file name."""
    if "/" in name:
        raise UnsafeName(f"the report name {name[:80]!r} is not one file name", cure="give a name without '/'")
    return parse_repository_path(name)
