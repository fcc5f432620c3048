"""S3 as a store, and the only room that speaks boto3.

    s3://bucket/prefix/blobs/sha256/<sha256>
                       snapshots/org--name/<revision>.json     the manifest, written after its blobs
                       refs/org--name.json                     a Promotion: what is promoted, and what was before
                       reports/org--name/<revision>/<name>

An object appears as a whole, so a blob needs no staging; one that was cut off while it was sent does not exist. Each
part goes with its sha256, and the server refuses what it did not receive so. A ref is written on the condition that
nobody wrote it since it was read (If-Match, If-None-Match), and read again when that is lost.

The address and the keys come from the AWS environment variables and files, which boto3 reads itself. boto3 repeats a
request; nothing here does. It does not fetch: `source` gives `paddock.transfer` an address. Parts that a killed process
left behind cost storage until the bucket's rule for incomplete multipart uploads removes them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from paddock.model.names import ModelName, Revision, Sha256, parse_revision
from paddock.model.source import Address, Expected, Source
from paddock.store import upload
from paddock.store.history import Promotion, whoami
from paddock.store.parts import Parts
from paddock.store.snapshots import MANIFEST_MAX_BYTES, log, parse_in_place
from paddock.store.store import Store, check_manifest_name_is_free, check_report_name, same_snapshot

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_S = 3.0  # three attempts: an S3 that is not there is told within about ten seconds
_READ_S = 60.0
_ATTEMPTS = 3
_ADDRESS_LIFE_S = 3600
_RACES = 20
_KEYS_CURE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for a server that is not Amazon's"

_NO_ANSWER = (
    aws.HTTPClientError,
    aws.ConnectionError,
    aws.IncompleteReadError,
    aws.ChecksumError,
    aws.FlexibleChecksumError,
    aws.MetadataRetrievalError,
)
_NO_KEYS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.LoginError,
    aws.ProfileNotFound,
)
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "InternalError"}
    | {"ServiceUnavailable", "OperationAborted", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
)
_KEY_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_LOST_RACE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})


def store_error(error: Exception, label: str) -> PaddockError:
    """The one place where an error of botocore becomes one of ours. What botocore says is not repeated where it could
    hold a signed address."""
    kind = type(error).__name__
    if isinstance(error, aws.ClientError):
        code = error_code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"{label} answers {status or 'an error'} ({code})"
        if code in _TRANSIENT_CODES or status in {408, 429} or (status >= 500 and status != 501):
            return StoreUnavailable(said, cure="try again later")
        if code == "NoSuchBucket":
            return StoreRefused(f"{said}: the bucket does not exist", cure="make it, or correct PADDOCK_S3_URI")
        if code in _KEY_CODES or status in {401, 403}:
            return StoreRefused(f"{said}: the keys are wrong, or may not do that", cure=_KEYS_CURE)
        if code == "RequestTimeTooSkewed":
            return StoreRefused(f"{said}: this machine's clock is wrong", cure="correct the clock")
        return StoreRefused(said, cure="check PADDOCK_S3_URI, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")
    if isinstance(error, aws.SSLError) and "certificate" in str(error).lower():
        return StoreRefused(f"{label}: the server's certificate is not accepted", cure="set AWS_CA_BUNDLE")
    if isinstance(error, _NO_ANSWER):
        return StoreUnavailable(f"{label} does not answer ({kind})", cure="check AWS_ENDPOINT_URL and the network")
    if isinstance(error, _NO_KEYS):
        return StoreRefused(f"{label}: there are no usable keys ({kind})", cure=_KEYS_CURE)
    return StoreRefused(f"{label} cannot be asked ({kind})", cure="check the AWS_… settings")


def error_code(error: aws.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


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

    Memory: a blob is sent by `connections` threads, each with one part of about a segment.
    """

    def __init__(self, uri: str, *, client: S3Client | None = None, connections: int = 4) -> None:
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
        self._connections = connections
        self._made = client
        self._making = threading.Lock()

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
        with self._asking():
            try:
                found = self._client().head_object(Bucket=self.bucket, Key=self._blob(sha256))
            except aws.ClientError as error:
                if error_code(error) in _ABSENT:
                    return False
                raise
        return found["ContentLength"] == size

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
        """Send a local blob, and return the bytes sent, 0 when it was there. `progress` is told the bytes of each part.

        Each segment is checked before it is sent: CorruptFile when it rotted. Not conditional on the object's absence:
        one under this name with another size is damage, and is replaced.
        """
        if self.has_blob(file.sha256, file.size):
            return 0
        with Parts(path, file, segment_bytes=segment_bytes) as parts:
            try:
                with self._asking():
                    upload.send(
                        self._client(),
                        self.bucket,
                        self._blob(file.sha256),
                        parts,
                        connections=self._connections,
                        told=progress or (lambda _: None),
                    )
            except StoreRefused:  # also when only the answer was lost, and the repeated request finds no upload
                if not self.has_blob(file.sha256, file.size):
                    raise
        return file.size

    def drop_blob(self, sha256: Sha256) -> None:
        """Remove an object whose bytes are not those of its name, so that the next `put_blob` sends it again. Its size
        may be right, and then nothing else would. Does nothing when it is not there."""
        with self._asking():
            self._client().delete_object(Bucket=self.bucket, Key=self._blob(sha256))

    def snapshot(self, model: ModelName, revision: Revision) -> Manifest | None:
        key = self._manifest(model, revision)
        found = self._get(key)
        return parse_in_place(found[0], model, revision, where=f"s3://{self.bucket}/{key}") if found else None

    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        def read(place: tuple[ModelName, Revision]) -> Manifest | None:
            try:
                return self.snapshot(*place)
            except CorruptFile as error:
                log.warning("a snapshot is left out: %s", error)
                return None

        with ThreadPoolExecutor(self._connections) as pool:
            found = [manifest for manifest in pool.map(read, self._places(model)) if manifest]
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        with ThreadPoolExecutor(self._connections) as pool:
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
        self._put(self._manifest(manifest.model, manifest.revision), manifest.to_json())

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
        self._put(key, text)
        return f"s3://{self.bucket}/{key}"

    def read_report(self, model: ModelName, revision: Revision, name: str) -> str | None:
        found = self._get(self._report(model, revision, name))
        return found[0].decode() if found else None

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
                    self._made = _connect(self._connections)
                except ValueError as error:  # an AWS_ENDPOINT_URL that is no address
                    raise store_error(error, self.label) from None
            return self._made

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around every request: let no error of botocore out."""
        try:
            yield
        except (aws.ClientError, aws.BotoCoreError) as error:
            raise store_error(error, self.label) from None

    def _get(self, key: str) -> tuple[bytes, str] | None:
        """(content, ETag) of a small object; None when it is not there."""
        with self._asking():
            try:
                answer = self._client().get_object(Bucket=self.bucket, Key=key)
            except aws.ClientError as error:
                if error_code(error) in _ABSENT:
                    return None
                raise
            with answer["Body"] as body:
                return body.read(MANIFEST_MAX_BYTES + 1), answer["ETag"]

    def _put(self, key: str, text: str) -> None:
        with self._asking():
            self._client().put_object(
                Bucket=self.bucket, Key=key, Body=text.encode(), ContentType="text/plain; charset=utf-8"
            )

    def _ref(self, model: ModelName) -> tuple[Promotion | None, str | None]:
        """(the ref, its ETag); (None, None) where there is none. One that cannot be read counts as none, and is
        replaced."""
        found = self._get(self._key(f"refs/{model.slug}.json"))
        if found is None:
            return None, None
        text, tag = found
        try:
            return Promotion.from_json(json.loads(text)), tag
        except ValueError:
            log.warning("the ref of %s in %s is no promotion, and is not used", model, self.label)
            return None, tag

    def _put_ref(self, model: ModelName, ref: Promotion, tag: str | None) -> bool:
        """False when somebody else wrote it since it was read."""
        body = json.dumps(ref.to_json(), ensure_ascii=False).encode()
        key = self._key(f"refs/{model.slug}.json")
        with self._asking():
            try:
                if tag is None:
                    self._client().put_object(Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*")
                else:
                    self._client().put_object(Bucket=self.bucket, Key=key, Body=body, IfMatch=tag)
            except aws.ClientError as error:
                if error_code(error) in _LOST_RACE | _ABSENT:  # absent: the ref was removed since
                    return False
                raise
        return True

    def _places(self, model: ModelName | None) -> Iterator[tuple[ModelName, Revision]]:
        prefix = self._key(f"snapshots/{model.slug}/" if model else "snapshots/")
        with self._asking():
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    slug, _, name = item["Key"].removeprefix(self._key("snapshots/")).partition("/")
                    try:
                        if name.endswith(".json"):
                            yield ModelName.from_slug(slug), parse_revision(name.removesuffix(".json"))
                    except UnsafeName:  # nothing of ours
                        continue


def _connect(connections: int) -> S3Client:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=max(10, connections),
        signature_version="s3v4",
        # We send a sha256 of our own with each blob, and check what we fetch.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)
