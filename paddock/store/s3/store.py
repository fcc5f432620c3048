"""S3 as a store.

    s3://bucket/prefix/blobs/sha256/<sha256>
                       snapshots/org--name/<revision>.json     the manifest, written after its blobs
                       refs/org--name.json                     a Promotion: what is promoted, and what was before
                       reports/org--name/<revision>/<name>
                       leases/<sha256>.json                    who asks the Hub for a blob now

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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
    StoreRefused,
    StoreUnavailable,
    UnsafeName,
)
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import ModelName, Revision, Sha256, parse_revision, parse_sha256
from paddock.model.source import Address, Expected, Source
from paddock.store.history import Promotion, whoami
from paddock.store.parts import Parts
from paddock.store.s3 import upload
from paddock.store.s3.connection import S3Options, connect
from paddock.store.s3.errors import asking, is_absent, store_error
from paddock.store.s3.objects import Objects
from paddock.store.s3.turns import Turns
from paddock.store.snapshots import log, parse_in_place
from paddock.store.store import Store, check_manifest_name_is_free, check_report_name, same_snapshot

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

    def snapshot(self, model: ModelName, revision: Revision) -> Manifest | None:
        key = self._manifest(model, revision)
        found = self._objects.get(key)
        return parse_in_place(found.content, model, revision, where=f"s3://{self.bucket}/{key}") if found else None

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        def read(place: tuple[ModelName, Revision]) -> Manifest | None:
            try:
                return self.snapshot(*place)
            except CorruptFile as error:
                log.warning("a snapshot is left out: %s", error)
                return None

        with ThreadPoolExecutor(self._options.connections) as pool:
            found = [manifest for manifest in pool.map(read, self._places(model)) if manifest]
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        with ThreadPoolExecutor(self._options.connections) as pool:
            present = pool.map(lambda file: self.has_blob(file.sha256, file.size), manifest.files)
            for file, is_there in zip(manifest.files, present, strict=True):
                if not is_there:
                    raise BlobMissing(
                        f"the snapshot {manifest.repository}@{manifest.revision[:8]} cannot be published: the blob of"
                        f" {file.path} ({file.sha256[:12]}…) is not in {self.label}",
                        cure="send that file again",
                    )
        with suppress(CorruptFile):  # what cannot be read is replaced
            there = self.snapshot(manifest.model, manifest.revision)
            if there is not None and same_snapshot(there, manifest):
                return
        self._objects.put(self._manifest(manifest.model, manifest.revision), manifest.to_json().encode())

    def promoted(self, model: ModelName) -> Revision | None:
        ref, _ = self._ref(model)
        return ref.revision if ref else None

    def promote(self, model: ModelName, revision: Revision, *, reason: str) -> Revision | None:
        """As in Store. Promoting what is promoted writes nothing, and returns it."""
        if self.snapshot(model, revision) is None:
            raise NotOnVolume(f"{model}@{revision} is not in {self.label}", cure="cache it there first")
        ours: Promotion | None = None
        for _ in range(_RACES):
            ref, tag = self._ref(model)
            if ref is not None and ours is not None and ref == ours:
                return ref.previous  # the write before went through, and only its answer was lost
            previous = ref.revision if ref else None
            if previous == revision:
                return previous
            ours = Promotion(revision, previous, datetime.now(UTC), reason, whoami())
            if self._put_ref(model, ours, tag):
                return previous
        raise StoreUnavailable(
            f"the ref of {model} in {self.label} is written by others all the time", cure="try again"
        )

    def write_report(self, model: ModelName, revision: Revision, name: str, text: str) -> str:
        key = self._report(model, revision, name)
        self._objects.put(key, text.encode())
        return f"s3://{self.bucket}/{key}"

    def read_report(self, model: ModelName, revision: Revision, name: str) -> str | None:
        found = self._objects.get(self._report(model, revision, name))
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

    def _manifest(self, model: ModelName, revision: Revision) -> str:
        return self._key(f"snapshots/{model.slug}/{revision}.json")

    def _report(self, model: ModelName, revision: Revision, name: str) -> str:
        return self._key(f"reports/{model.slug}/{revision}/{check_report_name(name)}")

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

    def _ref(self, model: ModelName) -> tuple[Promotion | None, str | None]:
        """(the ref, its ETag); (None, None) where there is none. One that cannot be read counts as none, and is
        replaced."""
        found = self._objects.get(self._key(f"refs/{model.slug}.json"))
        if found is None:
            return None, None
        try:
            return Promotion.from_json(json.loads(found.content)), found.tag
        except ValueError:
            log.warning("the ref of %s in %s is no promotion, and is not used", model, self.label)
            return None, found.tag

    def _put_ref(self, model: ModelName, ref: Promotion, tag: str | None) -> bool:
        """False when somebody else wrote it since it was read."""
        text = json.dumps(ref.to_json(), ensure_ascii=False)
        return self._objects.put_if(self._key(f"refs/{model.slug}.json"), text.encode(), tag=tag) is not None

    def _places(self, model: ModelName | None) -> Iterator[tuple[ModelName, Revision]]:
        for key, _ in self._listed(f"snapshots/{model.slug}/" if model else "snapshots/"):
            slug, _, name = key.removeprefix(self._key("snapshots/")).partition("/")
            try:
                if name.endswith(".json"):
                    yield ModelName.from_slug(slug), parse_revision(name.removesuffix(".json"))
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
