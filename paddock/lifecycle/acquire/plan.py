"""Plan an acquisition: which files, where each comes from, and the room that they take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from paddock.chat.template import DERIVED
from paddock.errors import CorruptFile, SnapshotDiffers
from paddock.lifecycle.assess.preflight import Chosen
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
from paddock.model.acquired import Origin, PlannedFile
from paddock.model.artifact import Listing, RepositoryFile, SnapshotFile
from paddock.model.names import Sha256
from paddock.model.quantization import is_gguf
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.planning.file_selection import FileSelection
from paddock.store.protocol import RemoteStore, Store

log = logging.getLogger(__name__)

MIN_LEASED_BYTES = 1024 * 1024
"""A smaller file costs the Hub less than a download lease costs the remote store."""


@dataclass(frozen=True, slots=True)
class AcquisitionPlan:
    """The plan of an acquisition of the snapshot `id`. `fetch_bytes` comes over the network, `need_bytes` is the room
    that it takes on the volume."""

    id: SnapshotId
    listing: Listing
    choice: FileSelection
    files: tuple[PlannedFile, ...]
    need_bytes: int

    @property
    def fetch_bytes(self) -> int:
        return sum(planned.file.size for planned in self.files if planned.origin != "volume")


@step(Kind.STORE, "plan")
def plan_files(clients: Clients, listing: Listing, chosen: Chosen, *, for_promotion: bool) -> AcquisitionPlan:
    """Plan where each chosen file comes from, and check that there is room for it and, with `for_promotion`, that its
    names on the volume are free.

    Raises as `plan`, NotEnoughDisk, and NoPermission.
    """
    clients.volume.prepare()
    drawn = plan(clients, listing, chosen.choice)
    if for_promotion:
        clients.volume.links.check_available(listing.model, drawn.id.variant)
    clients.volume.disk.require(drawn.need_bytes)
    return drawn


def plan(clients: Clients, listing: Listing, choice: FileSelection) -> AcquisitionPlan:
    """Plan for each chosen file whether the volume has it, or the remote store, or the Hub must send it. Changes
    nothing.

    A small file has no sha256 on the Hub; it is known by what an earlier snapshot of the same commit says of it. A
    damaged manifest says nothing: a new one takes its place when the snapshot is published. A snapshot that is there
    keeps the files that it was published with. The remote store is asked for what the volume lacks alone: a volume that
    has everything needs no S3. Raises SnapshotDiffers for a snapshot of that name with other model files,
    StoreUnavailable and StoreRefused.
    """
    id = SnapshotId(listing.model, listing.revision, choice.variant)
    files = _files_of(clients, id, choice)
    known = _known(clients.volume, id)
    planned = tuple(_planned(clients.volume, None, file, known.get(file.path)) for file in files)
    if clients.remote is not None and any(one.origin != "volume" for one in planned):
        known = _known(clients.remote, id) | known
        planned = tuple(_planned(clients.volume, clients.remote, file, known.get(file.path)) for file in files)
    return AcquisitionPlan(id, listing, choice, planned, need_bytes(clients, planned))


def need_bytes(clients: Clients, files: Sequence[PlannedFile]) -> int:
    """The room on the volume, in bytes, that these files take in addition to what is staged of them."""
    return sum(max(0, one.file.size - _staged_bytes(clients, one.expected)) for one in files if one.origin != "volume")


def _files_of(clients: Clients, id: SnapshotId, choice: FileSelection) -> tuple[RepositoryFile, ...]:
    """The chosen files; where the snapshot is published already, those of them that it holds."""
    try:
        there = clients.volume.snapshot(id)
    except CorruptFile:  # it is replaced
        return choice.files
    if there is None:
        return choice.files
    published = {file.path for file in there.files} - DERIVED
    chosen = {file.path for file in choice.files} - DERIVED
    model_files = {path for one in choice.sets for path in one.paths}
    if {path for path in published if is_gguf(path)} != model_files or not published <= chosen:
        raise SnapshotDiffers(
            f"{id} is on {clients.volume.label} with other files than are chosen now, and a snapshot is never replaced",
            cure=f"remove it with `paddock rm {id}`, then pull it again",
        )
    return tuple(file for file in choice.files if file.path in published)


def _known(store: Store, id: SnapshotId) -> dict[str, SnapshotFile]:
    """The files of the same commit by path, by the manifests in the store; the manifest of the same variant wins."""
    known: dict[str, SnapshotFile] = {}
    same_commit = [one for one in store.ids(id.model) if one.revision == id.revision]
    for one in sorted(same_commit, key=lambda one: one == id):
        try:
            manifest = store.snapshot(one)
        except CorruptFile as error:
            log.warning("%s; it counts as absent", error.message)
            continue
        known |= {file.path: file for file in manifest.files} if manifest is not None else {}
    return known


def _planned(
    volume: Store, remote: RemoteStore | None, file: RepositoryFile, known: SnapshotFile | None
) -> PlannedFile:
    digest = file.sha256 or (known.sha256 if known is not None and known.size == file.size else None)
    expected = Expected(file.size, digest, file.git_sha1)
    if digest is None:
        return PlannedFile(file, expected, "hub")
    if volume.has_blob(digest, file.size):
        return PlannedFile(file, expected, "volume")
    return PlannedFile(file, expected, *origin_beyond_volume(remote, digest, file.size))


def _staged_bytes(clients: Clients, expected: Expected) -> int:
    """Bytes on the disk that an earlier run's partial of the same file takes: its data, and what another download
    backend left beside that."""
    if expected.key is None:
        return 0
    held = 0
    for directory in (clients.volume.partial / expected.key).glob("*"):
        there = 0
        for path in directory.rglob("*"):
            with suppress(OSError):  # another process took it over just now, which renames its directory
                there += path.stat().st_blocks * 512
        held = max(held, there)
    return min(expected.size, held)


def origin_beyond_volume(remote: RemoteStore | None, digest: Sha256, size: int) -> tuple[Origin, bool]:
    """(where a file comes from that the volume lacks, whether it is fetched under a download lease)."""
    if remote is None:
        return "hub", False
    return "s3" if remote.has_blob(digest, size) else "hub", size >= MIN_LEASED_BYTES
