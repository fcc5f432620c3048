"""Plan an acquisition: the files, the origin of each, and the disk space that they need."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paddock.chat.template import DERIVED_FILES
from paddock.errors import BlobMissing, CorruptFile, SnapshotDiffers
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.eviction.facts import Fetching
from paddock.lifecycle.eviction.room import make_room
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.acquired import Origin, PlannedFile
from paddock.model.artifact import Listing, RepositoryFile, SnapshotFile
from paddock.model.names import Sha256
from paddock.model.quantization import is_gguf
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.planning.file_selection import FileSelection
from paddock.store.durable import disk_errors_in, names, statuses
from paddock.store.protocol import RemoteStore, Store
from paddock.transfer.digest import verify_file

if TYPE_CHECKING:
    from paddock.lifecycle.assess.preflight import Chosen

log = logging.getLogger(__name__)

MIN_LEASED_BYTES = 1024 * 1024
"""A smaller file costs the Hub less than a download lease costs the remote store."""


@dataclass(frozen=True, slots=True)
class AcquisitionPlan:
    """The plan of an acquisition of the snapshot `id`. `fetch_bytes` come over the network, `need_bytes` are taken on
    the volume; `evicted` are the snapshots that were removed to make room for them."""

    id: SnapshotId
    listing: Listing
    choice: FileSelection
    files: tuple[PlannedFile, ...]
    need_bytes: int
    evicted: tuple[EvictionRow, ...] = ()

    @property
    def fetch_bytes(self) -> int:
        return sum(planned.file.size for planned in self.files if planned.origin != "volume")

    @property
    def fetch_files(self) -> int:
        return sum(planned.origin != "volume" for planned in self.files)

    @property
    def stored_blobs(self) -> frozenset[Sha256]:
        """The blobs of it that the volume has."""
        return frozenset(
            planned.expected.sha256
            for planned in self.files
            if planned.origin == "volume" and planned.expected.sha256 is not None
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(row.line for row in self.evicted)


@step(Kind.STORE, "plan", warnings=lambda planned: planned.warnings)
def plan_files(clients: Clients, listing: Listing, chosen: Chosen, *, for_promotion: bool) -> AcquisitionPlan:
    """Plan the origin of each chosen file, and check that the volume has space and, with `for_promotion`, that the
    links that a promotion needs are free. Where space is missing, old snapshots are evicted.

    Raises as `plan`, NotEnoughDisk, and NoPermission.
    """
    clients.volume.prepare()
    planned = plan(clients, listing, chosen.choice)
    if for_promotion:
        clients.volume.links.check_available(listing.model, planned.id.variant)
    return with_room(clients, planned)


def with_room(clients: Clients, planned: AcquisitionPlan) -> AcquisitionPlan:
    """Check that the volume has space for the plan's files, evict old snapshots where it has not, and return the plan
    with these. Raises NotEnoughDisk."""
    fetching = Fetching(planned.id, planned.stored_blobs)
    evicted = make_room(clients, planned.need_bytes, files=planned.fetch_files, fetching=fetching)
    return replace(planned, evicted=evicted)


def plan(clients: Clients, listing: Listing, choice: FileSelection) -> AcquisitionPlan:
    """Plan the origin of each chosen file: the volume, the remote store, or the Hub. Changes nothing.

    The Hub gives no sha256 of a small file; it is taken from an earlier snapshot of the same commit, or of another one
    with the same git blob. A manifest in the remote store, where others can write, is only asked for files whose git
    blob the Hub lists, by which the bytes are verified. A damaged manifest is ignored, and replaced when the snapshot
    is published. A published snapshot keeps the files that it has. Only for files that the volume lacks, requests are
    sent to the remote store: a complete volume works without it.

    Raises SnapshotDiffers for a published snapshot with other model files, StoreUnavailable and StoreRefused.
    """
    id = SnapshotId(listing.model, listing.revision, choice.variant)
    files = _files_of(clients, id, choice)
    stored = _same_small_files(clients, id, files) | stored_files(clients.volume, id)
    planned = tuple(_planned(clients.volume, None, file, stored.get(file.path)) for file in files)
    if clients.remote is not None and any(row.origin != "volume" for row in planned):
        verifiable = {file.path for file in files if file.git_sha1 is not None}
        hints = {path: file for path, file in stored_files(clients.remote, id).items() if path in verifiable}
        stored = hints | stored
        with ThreadPoolExecutor(clients.settings.connections, thread_name_prefix="paddock-plan") as pool:
            found = pool.map(lambda file: _planned(clients.volume, clients.remote, file, stored.get(file.path)), files)
            planned = tuple(found)
    return AcquisitionPlan(id, listing, choice, planned, need_bytes(clients, planned))


def need_bytes(clients: Clients, files: Sequence[PlannedFile]) -> int:
    """The bytes that these files need on the volume in addition to their partial files."""
    missing = (planned for planned in files if planned.origin != "volume")
    return sum(max(0, planned.file.size - _staged_bytes(clients, planned.expected)) for planned in missing)


def _files_of(clients: Clients, id: SnapshotId, choice: FileSelection) -> tuple[RepositoryFile, ...]:
    """The chosen files; for a published snapshot, those of them that it has."""
    try:
        manifest = clients.volume.snapshot(id)
    except CorruptFile:  # the damaged manifest is replaced
        return choice.files
    if manifest is None:
        return choice.files
    published = {file.path for file in manifest.files} - DERIVED_FILES
    chosen = {file.path for file in choice.files} - DERIVED_FILES
    model_files = {path for gguf in choice.sets for path in gguf.paths}
    if {path for path in published if is_gguf(path)} != model_files or not published <= chosen:
        raise SnapshotDiffers(
            f"{id} is on {clients.volume.label} with other files than chosen now, and a snapshot is never replaced",
            cure=f"remove it with `paddock rm {id}`, then pull it again",
        )
    return tuple(file for file in choice.files if file.path in published)


def stored_files(store: Store, id: SnapshotId) -> dict[str, SnapshotFile]:
    """The files of the same commit by path, from the manifests in a store; that of the same variant comes first."""
    files: dict[str, SnapshotFile] = {}
    same_commit = [other for other in store.ids(id.model) if other.revision == id.revision]
    for other in sorted(same_commit, key=lambda other: other == id):
        try:
            manifest = store.snapshot(other)
        except CorruptFile as error:
            log.warning("%s; it is ignored", error.message)
            continue
        files |= {file.path: file for file in manifest.files} if manifest is not None else {}
    return files


def _same_small_files(clients: Clients, id: SnapshotId, files: Sequence[RepositoryFile]) -> dict[str, SnapshotFile]:
    """The small files by path that a snapshot of another commit has with the same bytes: a new commit seldom changes
    them. Told by the git blob that the Hub lists, which is computed of the stored bytes."""
    wanted = {file.path: file for file in files if file.sha256 is None and file.git_sha1 is not None}
    found: dict[str, SnapshotFile] = {}
    for manifest in reversed(clients.volume.snapshots(id.model) if wanted else []):
        for stored in manifest.files:
            file = wanted.get(stored.path)
            if file is None or manifest.revision == id.revision or stored.size != file.size:
                continue
            with suppress(CorruptFile, BlobMissing), clients.volume.reading_blob(stored.sha256) as path:
                verify_file(path, Expected(file.size, stored.sha256, file.git_sha1), clients.settings.segment_bytes)
                found[stored.path] = stored
                del wanted[stored.path]
    return found


def _planned(
    volume: Store, remote: RemoteStore | None, file: RepositoryFile, stored: SnapshotFile | None
) -> PlannedFile:
    """`stored` is the file of the same path and commit in an earlier snapshot, whose sha256 is used if the Hub has
    none."""
    digest = file.sha256 or (stored.sha256 if stored is not None and stored.size == file.size else None)
    expected = Expected(file.size, digest, file.git_sha1)
    if digest is None:
        return PlannedFile(file, expected, "hub")
    if volume.has_blob(digest, file.size):
        return PlannedFile(file, expected, "volume")
    return PlannedFile(file, expected, *origin_beyond_volume(remote, digest, file.size))


def _staged_bytes(clients: Clients, expected: Expected) -> int:
    """The bytes on the disk of the largest partial file that an earlier run left, whichever download backend it had
    used."""
    if expected.key is None:
        return 0
    directory = clients.volume.partial / expected.key
    with disk_errors_in(directory):
        partials = [directory / name for name in names(directory)]
    sizes = [sum(status.st_blocks * 512 for status in statuses(partial)) for partial in partials]
    return min(expected.size, max(sizes, default=0))


def origin_beyond_volume(remote: RemoteStore | None, digest: Sha256, size: int) -> tuple[Origin, bool]:
    """(the origin of a file that the volume lacks, whether it is fetched under a download lease)."""
    if remote is None:
        return "hub", False
    return "s3" if remote.has_blob(digest, size) else "hub", size >= MIN_LEASED_BYTES
