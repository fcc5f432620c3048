"""Snapshots of random bytes on a volume, on the local Hub and in S3, for tests of damage and repair."""

from __future__ import annotations

import random
from pathlib import Path

from infra.local.hub import HubService
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import Revision
from paddock.store.copying import push
from tests.support.stores import MODEL, SEGMENT_BYTES, manifest_of, put_blobs

WEIGHTS = "model-Q8_0.gguf"
SEGMENTS = 5
CONFIG = b'{"model_type": "llama"}'


def random_bytes(size: int, *, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def store_model(
    clients: Clients,
    hub: HubService,
    scratch: Path,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    contents: dict[str, bytes] | None = None,
    in_s3: bool = False,
) -> Manifest:
    """Put a model of five segments, the last of which is shorter, on the Hub and the volume, promoted; with `in_s3`,
    into S3 too."""
    contents = contents or {
        WEIGHTS: random_bytes((SEGMENTS - 1) * segment_bytes + segment_bytes // 3),
        "config.json": CONFIG,
    }
    revision = Revision(hub.repository(str(MODEL)).commit(contents))
    manifest = manifest_of(revision, contents, segment_bytes=segment_bytes)
    clients.volume.prepare()
    put_blobs(clients.volume, manifest, contents, scratch)
    clients.volume.publish(manifest)
    clients.volume.promote(manifest.id, reason="test")
    if in_s3:
        assert clients.remote is not None
        push(clients.volume, clients.remote, manifest)
    return manifest


def weights_of(manifest: Manifest) -> SnapshotFile:
    return next(file for file in manifest.files if file.path == WEIGHTS)


def quarantined(clients: Clients) -> list[str]:
    directory = clients.volume.root / ".paddock" / "quarantine"
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
