"""Read and write the objects of an S3 bucket below one prefix: `Objects`, with boto3."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import exceptions as aws

from paddock.errors import BadSetting, BlobMissing, CorruptFile, PaddockError, StoreRefused
from paddock.model.source import Address
from paddock.store.multipart import MultipartReader
from paddock.store.remote.objects import MAX_OBJECTS, Objects, ObjectStat, StoredObject
from paddock.store.s3 import trials, upload
from paddock.store.s3.answers import age_s, tag_of_content, tag_of_stat
from paddock.store.s3.bodies import read_object
from paddock.store.s3.checksums import Checksums
from paddock.store.s3.connection import S3Connection, S3Options, connect
from paddock.store.s3.errors import is_absent, is_lost_race, mapped_errors, store_error
from paddock.untrusted.fields import MAX_COUNT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ADDRESS_LIFE_S = 3600
_MAX_PAGES = MAX_OBJECTS // 1000
_CONTENT_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")


class S3Objects(Objects):
    """The bucket and prefix of `uri`, `s3://bucket[/prefix]`. boto3's client is made at the first request, unless one
    is passed in. Raises BadSetting for any other URI."""

    def __init__(self, uri: str, *, client: S3Client | None = None, options: S3Options = S3Options()) -> None:
        parts = urlsplit(uri)
        prefix = parts.path.strip("/")
        is_malformed = (
            "@" in parts.netloc
            or parts.query
            or parts.fragment
            or (prefix and any(part in {"", ".", ".."} for part in prefix.split("/")))
        )
        if parts.scheme != "s3" or not parts.netloc or is_malformed:
            raise BadSetting(
                "the address of the S3 store is not of the form s3://bucket or s3://bucket/prefix",
                cure="correct PADDOCK_S3_URI",
            )
        self.bucket = parts.netloc
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options
        self._connection = S3Connection(client) if client is not None else None
        self._client_lock = threading.Lock()
        self._checksums = Checksums(self.label)

    @property
    def label(self) -> str:
        return f"s3://{self.bucket}/{self._prefix}".rstrip("/")

    @property
    def connections(self) -> int:
        return self._options.connections

    def client(self) -> S3Client:
        """boto3's client, made once."""
        return self._connected().client

    def _connected(self) -> S3Connection:
        with self._client_lock:
            if self._connection is None:
                try:
                    self._connection = connect(self._options)
                except BadSetting:
                    raise
                except aws.BotoCoreError as error:
                    raise store_error(error, self.label) from None
                except ValueError:
                    raise StoreRefused(
                        f"{self.label} could not be used: AWS_ENDPOINT_URL is no address",
                        cure="set AWS_ENDPOINT_URL to https://host or http://host:port, or unset it for Amazon's S3",
                    ) from None
            return self._connection

    def get(self, key: str) -> StoredObject | None:
        with self._mapped_errors():
            try:
                answer = self.client().get_object(Bucket=self.bucket, Key=self._key(key))
            except aws.ClientError as error:
                if is_absent(error):
                    return None
                raise
            content = read_object(answer["Body"], answer.get("ContentLength"))
        return StoredObject(content, answer.get("ETag") or tag_of_content(content), age_s(answer))

    def put(self, key: str, content: bytes) -> None:
        with self._mapped_errors():
            self.client().put_object(
                Bucket=self.bucket,
                Key=self._key(key),
                Body=content,
                ContentType="text/plain; charset=utf-8",
                **self._options.for_any_object,
            )

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._mapped_errors():
            try:
                answer = self.client().put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=content, **condition, **self._options.for_any_object
                )
            except aws.ClientError as error:
                if is_lost_race(error) or is_absent(error):
                    return None
                raise
        return answer.get("ETag") or tag_of_content(content)

    def delete(self, key: str) -> None:
        with self._mapped_errors():
            self.client().delete_object(Bucket=self.bucket, Key=self._key(key))

    def stat(self, key: str) -> ObjectStat | None:
        with self._mapped_errors():
            try:
                found = self.client().head_object(Bucket=self.bucket, Key=self._key(key))
                # Proxies that compress or stream leave the length out, or set it to 0.
                size = found.get("ContentLength") or self._size(key)
            except aws.ClientError as error:
                if is_absent(error):
                    return None
                raise
        return None if size is None else ObjectStat(size, tag_of_stat(found, size))

    def _size(self, key: str) -> int | None:
        """The size of an object without HEAD: from the Content-Range of its first byte, else from the listing. None
        when it is not there."""
        try:
            answer = self.client().get_object(Bucket=self.bucket, Key=self._key(key), Range="bytes=0-0")
            answer["Body"].close()
            match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
            if match:
                return int(match[1])
        except aws.ClientError as error:
            if is_absent(error):
                raise
            # An empty object has no first byte: 416, or whatever the server answers.
        return next((size for listed, size in self.list(key) if listed == key), None)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._mapped_errors():
            pages = self.client().get_paginator("list_objects_v2")
            for number, page in enumerate(pages.paginate(Bucket=self.bucket, Prefix=self._key(prefix))):
                if number > _MAX_PAGES:
                    raise StoreRefused(
                        f"{self.label}: the list of its objects has no end, or more than {MAX_OBJECTS} of them",
                        cure="check AWS_ENDPOINT_URL, or set PADDOCK_S3_URI to a prefix for Paddock alone",
                    )
                for item in page.get("Contents", []):
                    key, size = item.get("Key", ""), item.get("Size", -1)
                    if key.startswith(self._key(prefix)) and 0 <= size <= MAX_COUNT:  # else it is no answer to this
                        yield key.removeprefix(self._prefix), size

    def address(self, key: str) -> Address:
        """A presigned URL. Signing makes no request, so each call returns a new one."""
        with self._mapped_errors():
            url = self.client().generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": self._key(key)}, ExpiresIn=_ADDRESS_LIFE_S
            )
        return Address(url, network=self._connected().network)

    def trials(self, key: str) -> dict[str, Callable[[], str]]:
        return trials.trials_of(self.client, self.bucket, self._key(key), label=self.label)

    def upload(
        self,
        key: str,
        reader: MultipartReader,
        *,
        progress: Callable[[int], None],
        keep: Collection[int] = frozenset(),
    ) -> int | None:
        """As `Objects.upload`. Each part is sent with its sha256, and the server refuses a part whose bytes differ.
        Parts of a process that died take up storage until the same blob is sent again, or until the bucket's lifecycle
        rule for incomplete multipart uploads removes them."""
        target = upload.UploadTarget(
            self.client(), self.bucket, self._key(key), self._checksums, self._options.for_blobs
        )
        try:
            with self._mapped_errors():
                connections = self._options.connections
                return upload.send(target, reader, connections=connections, progress=progress, keep=keep)
        except upload.UploadEnded:
            return None
        except (CorruptFile, StoreRefused, BlobMissing):
            with suppress(PaddockError), self._mapped_errors():
                upload.abandon(target)
            raise

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _mapped_errors(self) -> AbstractContextManager[None]:
        return mapped_errors(self.label, self._connected().proxy)
