"""The store protocols: `Store` for every store, `RemoteStore` for one that several machines share.

A *blob* is bytes named by their sha256; a *snapshot* is a manifest whose blobs are all there, identified by model,
revision and variant, and never replaced by another one; what is *promoted* is one revision of each variant, and one
variant that is the default. In every store a manifest is written after its blobs, and a promotion after its manifest,
so that a process that dies in between leaves what was there before.

A store does not copy: `paddock.store.copying` copies between stores, and `paddock.transfer` fetches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from paddock.errors import CorruptFile

if TYPE_CHECKING:
    from paddock.model.artifact import Manifest, SnapshotFile
    from paddock.model.names import ModelName, Sha256
    from paddock.model.reference import SnapshotId
    from paddock.model.source import Source
    from paddock.store.features import StoreFeatures
    from paddock.store.history import Promoted
    from paddock.store.holdings import Holdings
    from paddock.store.usage import UsageRow


class Store(Protocol):
    """Every method raises the errors of `paddock.errors` and no others. None retries beyond one request.

    An implementer must not trust what it reads back, since others can write to a volume or a bucket: it parses names
    and digests again, and raises CorruptFile for a manifest that is stored under another snapshot's name.
    """

    @property
    def label(self) -> str:
        """The store's name for people: `the volume /models`, `s3://bucket/prefix`. Holds no secret."""
        ...

    def has_blob(self, sha256: Sha256, size: int) -> bool:
        """Whether the store has the blob, with that size. Its bytes are not read."""
        ...

    def snapshot(self, id: SnapshotId) -> Manifest | None:
        """The manifest of a snapshot; None when there is no such snapshot. Raises CorruptFile."""
        ...

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        """Manifests of one model or of all, sorted by repository and creation. One that cannot be read is left out,
        with a warning."""
        ...

    def ids(self, model: ModelName) -> list[SnapshotId]:
        """Every snapshot of a model, also one whose manifest cannot be read."""
        ...

    def publish(self, manifest: Manifest) -> None:
        """Make a snapshot visible. One that was published before with the same files stays as it is.

        Raises BlobMissing when the store lacks a blob, and SnapshotDiffers when the snapshot was published before with
        other files; then nothing has changed.
        """
        ...

    def promoted(self, model: ModelName) -> Promoted:
        """The promoted revision of each variant of the model, and the default variant."""
        ...

    def sizes(self) -> tuple[int, int]:
        """(apparent bytes: the sum over the snapshots, real bytes: each stored blob once)."""
        ...

    def write_report(self, id: SnapshotId, name: str, content: str | bytes) -> str:
        """Replace a report as a whole, and return its path or URI. `name` is one file name, and `content` a text, or
        the bytes of a picture."""
        ...

    def read_report(self, id: SnapshotId, name: str) -> str | None:
        """The text of a report; None when there is none of that name."""
        ...

    def report_names(self, id: SnapshotId) -> list[str]:
        """The names of the reports on a snapshot, sorted."""
        ...

    def remove_report(self, id: SnapshotId, name: str) -> None:
        """Remove a report. Does nothing when there is none of that name."""
        ...


def has_snapshot(store: Store, id: SnapshotId) -> bool:
    """Whether a store has a snapshot with a manifest that can be read: one that cannot be is no use to anybody."""
    try:
        return store.snapshot(id) is not None
    except CorruptFile:
        return False


class DownloadLease(Protocol):
    """A download lease that this process holds (`RemoteStore.take_lease`)."""

    def set_progress(self, done_bytes: int) -> None:
        """Set the number of bytes that the next renewal publishes as fetched."""
        ...

    def held(self, *, lease_s: float) -> AbstractContextManager[None]:
        """Renew the lease from a thread until the block ends, then release it."""
        ...

    def release(self) -> None:
        """Remove the lease, unless another worker took it over. Raises nothing: a lease that stays expires."""
        ...


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A download lease that another worker holds. `owner` is for people; `done_bytes` is the owner's progress;
    `is_expired` when it was not renewed in time; `tag` identifies this state of it."""

    owner: str
    done_bytes: int
    is_expired: bool
    tag: str


@dataclass(frozen=True, slots=True)
class RemovalMark:
    """The mark of a blob that no manifest named (`paddock.store.remote.removal_marks`). `age_s` is the time since it
    was written, by the store's clock, and `tag` identifies it."""

    state: str
    age_s: float
    tag: str


class RemoteStore(Store, Protocol):
    """A store that several machines share, each beside a volume of its own.

    In addition to `Store`: blobs are sent and fetched in parts, promotions are conditional writes, and one worker of a
    fleet at a time holds the *download lease* of a blob, so that only one of them downloads it from the Hub. An
    implementer must not let correctness depend on a lease: it only saves bandwidth.

    `paddock.store.remote.ObjectStore` implements all of it for any object service that has the few calls of
    `paddock.store.remote.Objects`.
    """

    def check(self) -> None:
        """Make one cheap request. Raises StoreUnavailable or StoreRefused."""
        ...

    def features(self) -> StoreFeatures:
        """Try each feature of the service with small objects, which are removed again. Raises nothing."""
        ...

    def blob_tag(self, sha256: Sha256, size: int) -> str | None:
        """The tag of a blob that the store has with that size, else None. Writing other bytes changes the tag."""
        ...

    def source(self, file: SnapshotFile, *, model: ModelName | None = None) -> Source:
        """The blob as a source of bytes for `paddock.transfer`. Makes no request."""
        ...

    def put_blob(
        self,
        path: Path,
        file: SnapshotFile,
        *,
        segment_bytes: int,
        progress: Callable[[int], None] | None = None,
        damaged: Collection[int] | None = None,
    ) -> int:
        """Send a local blob, and return the number of bytes sent: 0 when the store has it. `progress` is called with
        the size of each part that the store has, in bytes.

        `damaged` replaces a blob that the store has, and whose bytes are wrong: it has the numbers of the segments that
        were found damaged, from 0, and none where nothing of it may be kept. The wrong blob stays until the other one
        is complete. Raises CorruptFile when the local blob is damaged; then nothing becomes visible.
        """
        ...

    def drop_blob(self, sha256: Sha256) -> None:
        """Remove a blob whose bytes are wrong. Does nothing when it is not there."""
        ...

    def promote(self, ids: Sequence[SnapshotId], *, default: SnapshotId | None = None) -> None:
        """Promote snapshots of one model, one of each variant, and make the variant of `default` the model's default.

        Other variants stay as they are. Writes nothing where nothing changes. Raises NotOnVolume for a snapshot that is
        not in the store, and for a default variant that is not promoted there.
        """
        ...

    def write_note(self, name: str, text: str) -> str:
        """Replace a text that belongs to no snapshot, and return its URI. `name` is `<folder>/<file>`, both chosen by
        Paddock."""
        ...

    def read_note(self, name: str) -> str | None:
        """A text that `write_note` wrote; None when there is none of that name."""
        ...

    def write_usage(self, worker: str, volume_id: str, content: bytes) -> None:
        """Replace what a worker used on a volume: rows of `paddock.store.usage`. Each worker and volume has an object
        of its own, so that no worker writes what another one wrote."""
        ...

    def usage(self) -> list[UsageRow]:
        """What all workers used, as each of them wrote it last. What cannot be parsed is left out."""
        ...

    def merge_silent_usage(self, *, silent_s: float) -> int:
        """Move the rows of workers that wrote nothing for `silent_s` seconds into one object, which changes no sum, and
        return their number."""
        ...

    def previous(self, model: ModelName) -> list[SnapshotId]:
        """The snapshots that were promoted before those that are promoted now: a rollback may go back to them."""
        ...

    def remove(self, id: SnapshotId) -> None:
        """Remove the manifest of a snapshot; its blobs stay. Does nothing when there is no such snapshot. Raises InUse
        when it is promoted, or was promoted before; then nothing has changed."""
        ...

    def blobs(self) -> dict[Sha256, int]:
        """The size of every stored blob, in bytes."""
        ...

    def named_blobs(self) -> Set[Sha256] | None:
        """The blobs that all manifests name; None when one cannot be read, since it may name any blob."""
        ...

    def marks(self) -> dict[Sha256, RemovalMark]:
        """The mark of each blob that has one."""
        ...

    def mark_blob(self, sha256: Sha256, before: RemovalMark | None) -> None:
        """Mark a blob that nothing names, in place of `before`. Does nothing when another worker was faster."""
        ...

    def unmark_blob(self, sha256: Sha256, mark: RemovalMark) -> None:
        """Withdraw the mark of a blob that is needed, or gone."""
        ...

    def remove_marked(
        self, blobs: Mapping[Sha256, RemovalMark], *, needed: Callable[[], Set[Sha256] | None]
    ) -> set[Sha256]:
        """Remove blobs whose marks still are these, and return those that were removed. `needed` returns the blobs that
        are named, or None; it is called once, right before the removal, and what it returns stays."""
        ...

    def write_holdings(self, name: str, holdings: Holdings) -> None:
        """Replace what the volume of that name has."""
        ...

    def holdings(self) -> dict[str, Holdings | None]:
        """What each volume has, by its name; None for one that cannot be read."""
        ...

    def take_lease(self, sha256: Sha256, *, lease_s: float) -> DownloadLease | HeldLease | None:
        """Take the download lease of a blob, or return who holds it; None when another worker took it at this moment.
        A lease that was not renewed for `lease_s` seconds is expired."""
        ...

    def take_over_lease(self, sha256: Sha256, other: HeldLease) -> DownloadLease | None:
        """Take the lease of a worker that is dead or makes no progress. None when it changed meanwhile."""
        ...
