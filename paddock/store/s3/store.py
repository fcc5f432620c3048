"""S3 as a store.

    s3://bucket/prefix/blobs/sha256/<sha256>
                       snapshots/org--name/<revision>/<variant>.json     the manifest, written after its blobs
                       refs/org--name.json                               what is promoted (`Ref`)
                       reports/org--name/<revision>/<variant>/<name>
                       leases/<sha256>.json                              who asks the Hub for a blob now

An object appears as a whole, so a blob needs no staging; one that was cut off while it was sent does not exist. Each
part goes with its sha256, and the server refuses what it did not receive so. A ref is written on the condition that
nobody wrote it since it was read (If-Match, If-None-Match), and read again when that is lost.

It does not fetch: `source` gives `paddock.transfer` an address. Parts that a killed process left behind are taken up by
the next one that sends the same blob; where none does, they cost storage until the bucket's rule for incomplete
multipart uploads removes them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore import exceptions as aws

from paddock.errors import (
    BadSetting,
    BlobMissing,
    CorruptFile,
    NotOnVolume,
    PaddockError,
    SnapshotDiffers,
    StoreRefused,
    StoreUnavailable,
    UnsafeName,
)
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import ModelName, Sha256, parse_revision, parse_sha256
from paddock.model.reference import SnapshotId, parse_variant
from paddock.model.source import Address, Expected, Source
from paddock.store.history import Promoted
from paddock.store.parts import Parts
from paddock.store.s3 import upload
from paddock.store.s3.connection import S3Options, connect
from paddock.store.s3.errors import asking, is_absent, store_error
from paddock.store.s3.objects import Objects
from paddock.store.s3.refs import Ref
from paddock.store.s3.turns import Turns
from paddock.store.snapshots import log, parse_in_place
from paddock.store.store import Store, check_manifest_name_is_free, check_report_name, same_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ADDRESS_LIFE_S = 3600
_RACES = 20


@dataclass(frozen=True, slots=True)
class S3Object:
    """A blob in S3 as a source of bytes."""

    label: str
    expected: Expected
    sign: Callable[[], str]
    on_hub: None = None

    def address(self, *, renew: bool = False) -> Address:  # noqa: ARG002 - each one is new: signing asks no network
        return Address(self.sign())


class S3Store(Store):
    """The constructor dials nothing; boto3's client is made at the first request, unless one is passed in.

    Memory: a blob is sent by `options.connections` threads, each with one part of about a segment.
    """

    def __init__(self, uri: str, *, client: S3Client | None = None, options: S3Options = S3Options()) -> None:
        parts = urlsplit(uri)
        prefix = parts.path.strip("/")
        odd = (
            "@" in parts.netloc
            or parts.query
            or parts.fragment
            or (prefix and any(part in {"", ".", ".."} for part in prefix.split("/")))
        )
        if parts.scheme != "s3" or not parts.netloc or odd:
            raise BadSetting("the address of the S3 store is not usable", cure="use s3://bucket or s3://bucket/prefix")
        self.bucket = parts.netloc
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options
        self._made = client
        self._making = threading.Lock()
        self._objects = Objects(self._client, self.bucket, label=self.label, always=options.for_any_object)
        self.turns = Turns(self._objects, self._prefix)

    def __repr__(self) -> str:
        return f"S3Store({self.label!r})"

    @property
    def label(self) -> str:
        return f"s3://{self.bucket}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        """One cheap request. Raises StoreUnavailable or StoreRefused."""
        with self._asking():
            self._client().list_objects_v2(Bucket=self.bucket, Prefix=self._key("refs/"), MaxKeys=1)

    def has_blob(self, sha256: Sha256, size: int) -> bool:
        return self.blob_tag(sha256, size) is not None

    def blob_tag(self, sha256: Sha256, size: int) -> str | None:
        """The ETag of a blob that is there with that size, else None: another one when it was written anew with other
        bytes."""
        with self._asking():
            try:
                found = self._client().head_object(Bucket=self.bucket, Key=self._blob(sha256))
            except aws.ClientError as error:
                if is_absent(error):
                    return None
                raise
        return found["ETag"] if found["ContentLength"] == size else None

    def source(self, file: SnapshotFile, *, model: ModelName | None = None) -> Source:
        """Where to fetch a blob: a signed address, made anew each time one is asked for."""
        name = f"{model}: {file.path}" if model else file.path

        def sign() -> str:
            with self._asking():
                return self._client().generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self.bucket, "Key": self._blob(file.sha256)},
                    ExpiresIn=_ADDRESS_LIFE_S,
                )

        return S3Object(f"{self.label}: {name}", Expected(size=file.size, sha256=file.sha256), sign)

    def put_blob(
        self, path: Path, file: SnapshotFile, *, segment_bytes: int, progress: Callable[[int], None] | None = None
    ) -> int:
        """Send a local blob, and return the bytes sent: 0 when it was there, and less than all of them where an upload
        that died is taken up. `progress` is told the bytes of each part that is there.

        Each segment is checked before it is sent: CorruptFile when it rotted. Not conditional on the object's absence:
        one under this name with another size is damage, and is replaced. Where S3 does not answer any more, what was
        sent stays for the next try.
        """
        if self.has_blob(file.sha256, file.size):
            return 0
        target = upload.Target(self._client(), self.bucket, self._blob(file.sha256), self._options.for_blobs)
        with Parts(path, file, segment_bytes=segment_bytes) as parts:
            try:
                with self._asking():
                    return upload.send(
                        target, parts, connections=self._options.connections, told=progress or (lambda _: None)
                    )
            except upload.UploadEnded:  # also where the object was completed, and only the answer was lost
                if self.has_blob(file.sha256, file.size):
                    return file.size
                raise StoreUnavailable(
                    f"{self.label}: another worker ended the upload of {file.path}", cure="try again"
                ) from None
            except (CorruptFile, StoreRefused, BlobMissing):
                with suppress(PaddockError), self._asking():
                    upload.abandon(target)
                raise

    def drop_blob(self, sha256: Sha256) -> None:
        """Remove an object whose bytes are not those of its name, so that the next `put_blob` sends it again. Its size
        may be right, and then nothing else would. Does nothing when it is not there."""
        with self._asking():
            self._client().delete_object(Bucket=self.bucket, Key=self._blob(sha256))

    def snapshot(self, id: SnapshotId) -> Manifest | None:
        key = self._manifest(id)
        found = self._objects.get(key)
        return parse_in_place(found.content, id, where=f"s3://{self.bucket}/{key}") if found else None

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        def read(id: SnapshotId) -> Manifest | None:
            try:
                return self.snapshot(id)
            except CorruptFile as error:
                log.warning("a snapshot is left out: %s", error)
                return None

        with ThreadPoolExecutor(self._options.connections) as pool:
            found = [manifest for manifest in pool.map(read, self._places(model)) if manifest]
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def ids(self, model: ModelName) -> list[SnapshotId]:
        """Every snapshot of a model, by the names of its manifests."""
        return list(self._places(model))

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        with ThreadPoolExecutor(self._options.connections) as pool:
            present = pool.map(lambda file: self.has_blob(file.sha256, file.size), manifest.files)
            for file, is_there in zip(manifest.files, present, strict=True):
                if not is_there:
                    raise BlobMissing(
                        f"the snapshot {manifest.id.short} cannot be published: the blob of"
                        f" {file.path} ({file.sha256[:12]}…) is not in {self.label}",
                        cure="send that file again",
                    )
        with suppress(CorruptFile):  # what cannot be read is replaced
            there = self.snapshot(manifest.id)
            if there is not None and not same_files(there, manifest):
                raise SnapshotDiffers(
                    f"{manifest.id} is in {self.label} with other files, and a snapshot is never replaced",
                    cure=f"remove s3://{self.bucket}/{self._manifest(manifest.id)}, then cache it again",
                )
            if there is not None:
                return
        self._objects.put(self._manifest(manifest.id), manifest.to_json().encode())

    def promoted(self, model: ModelName) -> Promoted:
        ref, _ = self._ref(model)
        return ref.promoted(model)

    def promote(self, ids: Sequence[SnapshotId], *, default: SnapshotId | None = None) -> None:
        """Point the model's ref at published snapshots, one of each variant, and its default at that of `default`.

        What the ref says of other variants stays. What it says already writes nothing. Raises NotOnVolume for a
        snapshot that is not in S3, and for a default variant that the ref does not have."""
        for id in ids:
            if self.snapshot(id) is None:
                raise NotOnVolume(f"{id} is not in {self.label}", cure=f"send it there first (`paddock cache {id}`)")
        model = next(iter([*ids, *([default] if default else [])])).model
        for _ in range(_RACES):
            before, tag = self._ref(model)
            after = before.with_promoted(ids, default=default.variant if default else None)
            if after == before:
                return
            if default and default.variant not in after.variants:
                raise NotOnVolume(f"{default.name} is not promoted in {self.label}", cure="promote it there first")
            if self._put_ref(model, after, tag):
                return
        raise StoreUnavailable(
            f"the ref of {model} in {self.label} is written by others all the time", cure="try again"
        )

    def write_report(self, id: SnapshotId, name: str, text: str) -> str:
        key = self._report(id, name)
        self._objects.put(key, text.encode())
        return f"s3://{self.bucket}/{key}"

    def read_report(self, id: SnapshotId, name: str) -> str | None:
        found = self._objects.get(self._report(id, name))
        return found.content.decode() if found else None

    def sizes(self) -> tuple[int, int]:
        """(apparent bytes: the sum over the snapshots, real bytes: the blobs that are stored)."""
        real = 0
        for key, size in self._listed("blobs/sha256/"):
            with suppress(UnsafeName):  # nothing of ours
                parse_sha256(key.rpartition("/")[2])
                real += size
        return sum(manifest.size_bytes for manifest in self.snapshots()), real

    def _key(self, rest: str) -> str:
        return self._prefix + rest

    def _blob(self, sha256: Sha256) -> str:
        return self._key(f"blobs/sha256/{sha256}")

    def _manifest(self, id: SnapshotId) -> str:
        return self._key(f"snapshots/{id.model.slug}/{id.revision}/{id.variant}.json")

    def _report(self, id: SnapshotId, name: str) -> str:
        return self._key(f"reports/{id.model.slug}/{id.revision}/{id.variant}/{check_report_name(name)}")

    def _client(self) -> S3Client:
        with self._making:
            if self._made is None:
                try:
                    self._made = connect(self._options)
                except ValueError as error:  # an AWS_ENDPOINT_URL that is no address
                    raise store_error(error, self.label) from None
            return self._made

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self.label)

    def _ref(self, model: ModelName) -> tuple[Ref, str | None]:
        """(the ref, its ETag); an empty one and None where there is none. One that cannot be read counts as empty, and
        is replaced."""
        found = self._objects.get(self._key(f"refs/{model.slug}.json"))
        if found is None:
            return Ref(), None
        try:
            return Ref.from_json(json.loads(found.content)), found.tag
        except ValueError:
            log.warning("the ref of %s in %s cannot be read, and is not used", model, self.label)
            return Ref(), found.tag

    def _put_ref(self, model: ModelName, ref: Ref, tag: str | None) -> bool:
        """False when somebody else wrote it since it was read."""
        text = json.dumps(ref.to_json())
        return self._objects.put_if(self._key(f"refs/{model.slug}.json"), text.encode(), tag=tag) is not None

    def _places(self, model: ModelName | None) -> Iterator[SnapshotId]:
        for key, _ in self._listed(f"snapshots/{model.slug}/" if model else "snapshots/"):
            slug, _, rest = key.removeprefix(self._key("snapshots/")).partition("/")
            revision, _, name = rest.partition("/")
            try:
                if name.endswith(".json"):
                    variant = parse_variant(name.removesuffix(".json"))
                    yield SnapshotId(ModelName.from_slug(slug), parse_revision(revision), variant)
            except UnsafeName:  # nothing of ours
                continue

    def _listed(self, below: str) -> Iterator[tuple[str, int]]:
        """(key, size) of every object below."""
        with self._asking():
            pages = (
                self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(below))
            )
            for page in pages:
                yield from ((item["Key"], item["Size"]) for item in page.get("Contents", []))
