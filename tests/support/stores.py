"""Build small snapshots for tests of stores: files, their manifest, and the S3 store with its client."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.finding import Verdict
from paddock.model.names import ModelName, Revision, Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.protocol import RemoteStore
from paddock.store.remote import ObjectStore
from paddock.store.s3 import S3Objects, S3Options
from paddock.store.volume import Volume
from tests.support.segments import segments_of

SEGMENT_BYTES = 64 * 1024
MODEL = ModelName.parse("org/name")
A, B, C = (Revision(letter * 40) for letter in "abc")
Q8, Q4 = Variant("Q8_0"), Variant("Q4_K_M")
START = datetime(2026, 1, 1, tzinfo=UTC)


class S3Store(ObjectStore):
    """The remote store on S3, with access to boto3's client, for tests that change objects directly."""

    objects: S3Objects

    def __init__(self, uri: str, *, client: Any = None, options: S3Options = S3Options()) -> None:  # noqa: B008 frozen
        super().__init__(S3Objects(uri, client=client, options=options))

    @classmethod
    def of(cls, clients: Clients) -> S3Store:
        """The store of these clients, with the same boto3 client."""
        assert clients.settings.s3_uri
        return cls(clients.settings.s3_uri, client=s3_objects(clients).client())

    @property
    def bucket(self) -> str:
        return self.objects.bucket

    def client(self) -> Any:
        return self.objects.client()


def s3_objects(clients: Clients) -> S3Objects:
    """The S3 objects of these clients."""
    assert isinstance(clients.remote, ObjectStore)
    assert isinstance(clients.remote.objects, S3Objects)
    return clients.remote.objects


def file_of(path: str, content: bytes, *, segment_bytes: int = SEGMENT_BYTES) -> SnapshotFile:
    return SnapshotFile(
        path=path,
        size=len(content),
        sha256=Sha256(hashlib.sha256(content).hexdigest()),
        segments=segments_of(content, segment_bytes),
    )


def id_of(revision: Revision, variant: Variant = Q8, *, model: ModelName = MODEL) -> SnapshotId:
    return SnapshotId(model, revision, variant)


def manifest_of(
    revision: Revision,
    contents: dict[str, bytes],
    *,
    model: ModelName = MODEL,
    variant: Variant = Q8,
    age_s: float = 0,
    segment_bytes: int = SEGMENT_BYTES,
) -> Manifest:
    """The manifest of files with these contents; no blob is stored. It was created `age_s` seconds after START."""
    return Manifest(
        repository=str(model),
        revision=revision,
        variant=variant,
        files=tuple(file_of(path, content, segment_bytes=segment_bytes) for path, content in sorted(contents.items())),
        segment_bytes=segment_bytes,
        quantization=variant,
        licence=None,
        created_at=START + timedelta(seconds=age_s),
        verdict=Verdict.ACCEPT,
        paddock_version="1",
        engine_version="1",
    )


def put_blobs(store: Volume | RemoteStore, manifest: Manifest, contents: dict[str, bytes], scratch: Path) -> None:
    for file in manifest.files:
        if isinstance(store, Volume):
            store.add_bytes(contents[file.path])
        else:
            local = scratch / file.sha256
            local.write_bytes(contents[file.path])
            store.put_blob(local, file, segment_bytes=manifest.segment_bytes)


def publish(
    store: Volume | RemoteStore,
    revision: Revision,
    contents: dict[str, bytes],
    scratch: Path,
    *,
    model: ModelName = MODEL,
    variant: Variant = Q8,
    age_s: float = 0,
) -> Manifest:
    manifest = manifest_of(revision, contents, model=model, variant=variant, age_s=age_s)
    put_blobs(store, manifest, contents, scratch)
    store.publish(manifest)
    return manifest
