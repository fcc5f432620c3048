"""Send a blob to S3 as a multipart upload: several parts at a time; the object becomes visible when all are stored.

An interrupted upload is resumed: the newest unfinished upload of the same object is continued, and a stored part is
kept if its digest (its sha256, or the md5 that is its ETag) is that of the local part. The local digest is of bytes
that were just verified on this disk, so a wrong answer of S3 cannot make a wrong object.

The errors of boto3's client are raised unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore import exceptions as aws

from paddock.store.multipart import MultipartReader, Part, PartContent
from paddock.store.s3.answers import NotS3Answer, tag_of_content
from paddock.store.s3.checksums import Checksums
from paddock.store.s3.errors import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef


_ENDED = frozenset({"NoSuchUpload", "InvalidPart"})


class UploadEnded(Exception):
    """The upload is gone, or its parts have changed: another worker completed it, or removed it."""


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """The object that a blob is sent to. `extra_args` are request parameters: encryption, storage class."""

    client: S3Client
    bucket: str
    key: str
    checksums: Checksums
    extra_args: Mapping[str, Any] = field(default_factory=dict)


def send(
    target: UploadTarget,
    reader: MultipartReader,
    *,
    connections: int,
    progress: Callable[[int], None],
    keep: Collection[int] = frozenset(),
) -> int:
    """Send a blob, and return the number of bytes sent: fewer than its size when an earlier upload is resumed, or where
    the server copies the parts `keep` from the object that is there. `progress` is called in the caller's thread with
    the size of each part that is stored, in bytes. Raises UploadEnded."""
    parts = list(reader)
    if len(parts) > 1:
        return _send_parts(target, reader, parts=parts, connections=connections, progress=progress, keep=keep)
    content = reader.read(parts[0])
    put = partial(
        target.client.put_object, Bucket=target.bucket, Key=target.key, Body=content.body, **target.extra_args
    )
    target.checksums.send(put, ChecksumSHA256=content.checksum)
    progress(parts[0].length)
    return parts[0].length


def abandon(target: UploadTarget) -> None:
    """Abort all unfinished uploads of this object. Where that fails, the bucket's lifecycle rule removes them."""
    for upload_id in _unfinished(target):
        _abort(target, upload_id)


def _send_parts(
    target: UploadTarget,
    reader: MultipartReader,
    *,
    parts: list[Part],
    connections: int,
    progress: Callable[[int], None],
    keep: Collection[int],
) -> int:
    unfinished = _unfinished(target)
    upload_id, stored = _resume_or_create(target, unfinished)
    sent_bytes = 0

    def send_part(part: Part) -> tuple[Part, CompletedPartTypeDef, bool]:
        content = reader.read(part)
        earlier = stored.get(part.number)
        if earlier is not None and _is_same(earlier, part, content):
            return part, _completed(target, part, content, earlier.get("ETag")), False
        if part.number in keep:
            copied = _copied(target, upload_id, part, content)
            if copied is not None:
                return part, copied, False
        upload_part = partial(
            target.client.upload_part,
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            PartNumber=part.number,
            Body=content.body,
        )
        response = target.checksums.send(upload_part, ChecksumSHA256=content.checksum)
        return part, _completed(target, part, content, response.get("ETag")), True

    pool = ThreadPoolExecutor(connections)
    try:
        completed: dict[int, CompletedPartTypeDef] = {}
        for future in as_completed([pool.submit(send_part, part) for part in parts]):
            part, completed_part, was_sent = future.result()
            completed[part.number] = completed_part
            sent_bytes += part.length if was_sent else 0
            progress(part.length)
        target.client.complete_multipart_upload(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            MultipartUpload={"Parts": [completed[number] for number in sorted(completed)]},
        )
    except aws.ClientError as error:
        if error_code(error) not in _ENDED:
            raise
        _abort(target, upload_id)  # an upload whose parts have changed cannot be completed by any worker
        raise UploadEnded from None
    finally:
        pool.shutdown(cancel_futures=True)
    for other in unfinished:  # the object is there: a worker that still sends to one of these finds that out
        if other != upload_id:
            _abort(target, other)
    return sent_bytes


def _unfinished(target: UploadTarget) -> list[str]:
    """The ids of this object's unfinished uploads, newest first. Empty where the keys may not list them, or the server
    cannot: then no upload is resumed."""
    try:
        pages = target.client.get_paginator("list_multipart_uploads").paginate(Bucket=target.bucket, Prefix=target.key)
        uploads = [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == target.key]
    except (aws.ClientError, NotS3Answer):
        return []
    newest_first = sorted(uploads, key=lambda upload: str(upload.get("Initiated", "")), reverse=True)
    return [upload["UploadId"] for upload in newest_first]


def _resume_or_create(target: UploadTarget, unfinished: list[str]) -> tuple[str, dict[int, PartTypeDef]]:
    """(upload id, its stored parts by number): the newest unfinished upload, or a new one where there is none."""
    for upload_id in unfinished[:1]:
        with suppress(aws.ClientError, NotS3Answer):  # it was completed or aborted meanwhile
            pages = target.client.get_paginator("list_parts").paginate(
                Bucket=target.bucket, Key=target.key, UploadId=upload_id
            )
            return upload_id, {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}
    create = partial(target.client.create_multipart_upload, Bucket=target.bucket, Key=target.key, **target.extra_args)
    response = target.checksums.send(create, ChecksumAlgorithm="SHA256")
    if not response.get("UploadId"):
        raise NotS3Answer("without the id of the upload")
    return response["UploadId"], {}


def _is_same(earlier: PartTypeDef, part: Part, content: PartContent) -> bool:
    if earlier.get("Size") != part.length:
        return False
    checksum = earlier.get("ChecksumSHA256")
    if checksum:
        return checksum == content.checksum
    # An ETag is the md5 of the part, except with some kinds of encryption; then the part is sent again.
    return earlier.get("ETag", "").strip('"') == tag_of_content(content.body).strip('"')


def _copied(target: UploadTarget, upload_id: str, part: Part, content: PartContent) -> CompletedPartTypeDef | None:
    """Let the server copy a part from the object that is there. None where it cannot, or where its answer does not
    prove that the copy has the part's bytes: then the part is sent."""
    try:
        answer = target.client.upload_part_copy(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            PartNumber=part.number,
            CopySource={"Bucket": target.bucket, "Key": target.key},
            CopySourceRange=f"bytes={part.offset}-{part.offset + part.length - 1}",
        )
    except (aws.ClientError, NotS3Answer):
        return None
    copy = answer.get("CopyPartResult", {})
    described: PartTypeDef = {"Size": part.length, "ETag": copy.get("ETag", "")}
    if "ChecksumSHA256" in copy:
        described["ChecksumSHA256"] = copy["ChecksumSHA256"]
    return _completed(target, part, content, copy.get("ETag")) if _is_same(described, part, content) else None


def _completed(target: UploadTarget, part: Part, content: PartContent, tag: str | None) -> CompletedPartTypeDef:
    completed: CompletedPartTypeDef = {"PartNumber": part.number, "ETag": tag or tag_of_content(content.body)}
    if target.checksums.are_accepted:
        completed["ChecksumSHA256"] = content.checksum
    return completed


def _abort(target: UploadTarget, upload_id: str) -> None:
    with suppress(aws.ClientError, aws.BotoCoreError):
        target.client.abort_multipart_upload(Bucket=target.bucket, Key=target.key, UploadId=upload_id)
