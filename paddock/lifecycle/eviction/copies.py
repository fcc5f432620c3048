"""Find which snapshots of the volume have a copy in the remote store that was verified there.

A copy counts if the remote store has the snapshot's manifest with the same files, and each blob with the tag that it
had when its bytes were last compared with their digest (`paddock.store.volume.verifications`).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from paddock.errors import CorruptFile
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.plan import VolumeFacts
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.reference import SnapshotId
from paddock.store.manifests import same_files
from paddock.store.protocol import RemoteStore
from paddock.store.volume import Volume
from paddock.store.volume.verifications import in_remote


def with_copies(clients: Clients, facts: VolumeFacts) -> VolumeFacts:
    """The facts with the copies of the snapshots that are not protected. Raises StoreUnavailable and StoreRefused."""
    copied = verified_copies(clients, (one.id for one in facts.snapshots if not one.protection))
    return replace(facts, snapshots=tuple(replace(one, copied=one.id in copied) for one in facts.snapshots))


def verified_copies(clients: Clients, ids: Iterable[SnapshotId]) -> set[SnapshotId]:
    """Those of the snapshots that have a verified copy. Raises StoreUnavailable and StoreRefused."""
    remote = clients.remote
    if remote is None:
        return set()
    manifests = [manifest for id in ids if (manifest := _manifest(clients.volume, id)) is not None]
    recorded = [one for one in manifests if all(_is_recorded(clients.volume, remote, file) for file in one.files)]
    with ThreadPoolExecutor(clients.settings.connections) as pool:
        copied = pool.map(lambda manifest: _is_copied(clients.volume, remote, manifest), recorded)
        return {manifest.id for manifest, is_copied in zip(recorded, copied, strict=True) if is_copied}


def _manifest(volume: Volume, id: SnapshotId) -> Manifest | None:
    try:
        return volume.snapshot(id)
    except CorruptFile:
        return None


def _is_recorded(volume: Volume, remote: RemoteStore, file: SnapshotFile) -> bool:
    """Whether a verification in the remote store is recorded at all, which is asked before any request is made. An
    empty file needs none."""
    return file.size == 0 or volume.verifications.last(file.sha256, in_remote(remote.label)) is not None


def _is_copied(volume: Volume, remote: RemoteStore, manifest: Manifest) -> bool:
    try:
        stored = remote.snapshot(manifest.id)
    except CorruptFile:
        return False
    if stored is None or not same_files(stored, manifest):
        return False
    return all(_is_verified(volume, remote, file) for file in manifest.files)


def _is_verified(volume: Volume, remote: RemoteStore, file: SnapshotFile) -> bool:
    tag = remote.blob_tag(file.sha256, file.size)
    if tag is None or file.size == 0:
        return tag is not None
    last = volume.verifications.last(file.sha256, in_remote(remote.label))
    return last is not None and last.tag == tag
