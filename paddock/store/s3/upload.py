"""One blob into S3, part by part: several at a time, and the object appears only when all of them are there.

What a process that died sent before is not sent again: the newest upload of the same object that was begun is taken up,
and a part of it is kept where its digest (its sha256, or the md5 that is its ETag) is that of ours. The digest of each
part is of bytes that were verified on this disk just now, so nothing that S3 says is believed.

The errors of the client go to the caller as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore import exceptions as aws

from paddock.store.multipart import Content, MultipartReader, Part
from paddock.store.s3.errors import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef


_ENDED = frozenset({"NoSuchUpload", "InvalidPart"})


class UploadEnded(Exception):
    """The upload is no more, or not as it was: another worker that sends the same completed it, or removed it."""


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """The object that a blob becomes. `said` goes with it: encryption, storage class."""

    client: S3Client
    bucket: str
    key: str
    said: Mapping[str, Any] = field(default_factory=dict)


def send(target: UploadTarget, reader: MultipartReader, *, connections: int, progress: Callable[[int], None]) -> int:
    """Send a blob, and return the bytes that were sent: less than all of them where an earlier upload is taken up.
    `progress` is called with the bytes of each part that is there, in the caller's thread. Raises UploadEnded."""
    planned = list(reader)
    if len(planned) > 1:
        return _send_parts(target, reader, planned=planned, connections=connections, progress=progress)
    content = reader.read(planned[0])
    target.client.put_object(
        Bucket=target.bucket, Key=target.key, Body=content.body, ChecksumSHA256=content.checksum, **target.said
    )
    progress(planned[0].length)
    return planned[0].length


def abandon(target: UploadTarget) -> None:
    """Remove what uploads of this object left. Where that fails, the bucket's own rule for them has to do it."""
    for upload in _begun(target):
        _abort(target, upload)


def _send_parts(
    target: UploadTarget,
    reader: MultipartReader,
    *,
    planned: list[Part],
    connections: int,
    progress: Callable[[int], None],
) -> int:
    begun = _begun(target)
    upload, there = _taken_up(target, begun)
    sent_bytes = 0

    def send_part(part: Part) -> tuple[Part, CompletedPartTypeDef, bool]:
        content = reader.read(part)
        earlier = there.get(part.number)
        if earlier is not None and _is_same(earlier, part, content):
            return part, _completed(part, earlier["ETag"], content), False
        answer = target.client.upload_part(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload,
            PartNumber=part.number,
            Body=content.body,
            ChecksumSHA256=content.checksum,
        )
        return part, _completed(part, answer["ETag"], content), True

    pool = ThreadPoolExecutor(connections)
    try:
        completed: dict[int, CompletedPartTypeDef] = {}
        for future in as_completed([pool.submit(send_part, part) for part in planned]):
            part, done, was_sent = future.result()
            completed[part.number] = done
            sent_bytes += part.length if was_sent else 0
            progress(part.length)
        target.client.complete_multipart_upload(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload,
            MultipartUpload={"Parts": [completed[number] for number in sorted(completed)]},
        )
    except aws.ClientError as error:
        if error_code(error) not in _ENDED:
            raise
        _abort(target, upload)  # where its parts are not what they were, nobody can complete it
        raise UploadEnded from None
    finally:
        pool.shutdown(cancel_futures=True)
    for other in begun:  # the object is there: whoever still sends to one of these finds that out
        if other != upload:
            _abort(target, other)
    return sent_bytes


def _begun(target: UploadTarget) -> list[str]:
    """The uploads of this object that were begun and not ended, the newest first. None where keys may not list them:
    then nothing is taken up."""
    try:
        pages = target.client.get_paginator("list_multipart_uploads").paginate(Bucket=target.bucket, Prefix=target.key)
        found = [one for page in pages for one in page.get("Uploads", []) if one["Key"] == target.key]
    except aws.ClientError:
        return []
    return [one["UploadId"] for one in sorted(found, key=lambda one: one["Initiated"], reverse=True)]


def _taken_up(target: UploadTarget, begun: list[str]) -> tuple[str, dict[int, PartTypeDef]]:
    """The upload to go on with, and its parts; a new one where there is none."""
    for upload in begun[:1]:
        with suppress(aws.ClientError):  # it ended just now
            pages = target.client.get_paginator("list_parts").paginate(
                Bucket=target.bucket, Key=target.key, UploadId=upload
            )
            return upload, {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}
    answer = target.client.create_multipart_upload(
        Bucket=target.bucket, Key=target.key, ChecksumAlgorithm="SHA256", **target.said
    )
    return answer["UploadId"], {}


def _is_same(earlier: PartTypeDef, part: Part, content: Content) -> bool:
    if earlier.get("Size") != part.length:
        return False
    checksum = earlier.get("ChecksumSHA256")
    if checksum:
        return checksum == content.checksum
    # An ETag is the md5 of the part but for some ways of encryption; where it is not, the part is sent again.
    return earlier.get("ETag", "").strip('"') == hashlib.md5(content.body, usedforsecurity=False).hexdigest()


def _completed(part: Part, tag: str, content: Content) -> CompletedPartTypeDef:
    return {"PartNumber": part.number, "ETag": tag, "ChecksumSHA256": content.checksum}


def _abort(target: UploadTarget, upload: str) -> None:
    with suppress(aws.ClientError, aws.BotoCoreError):
        target.client.abort_multipart_upload(Bucket=target.bucket, Key=target.key, UploadId=upload)
