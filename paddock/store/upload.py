"""One blob into S3, part by part: several at a time, and the object appears only when all of them are there.

It needs a client and speaks no boto3 itself; the errors of the client go to the caller as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import TYPE_CHECKING

from paddock.store.parts import Part, Parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


def send(
    client: S3Client, bucket: str, key: str, parts: Parts, *, connections: int, told: Callable[[int], None]
) -> None:
    """Send a blob. `told` is given the bytes of each part that arrived, in the caller's thread."""
    planned = list(parts)
    if len(planned) > 1:
        _send_parts(client, bucket, key, parts, planned=planned, connections=connections, told=told)
        return
    content = parts.read(planned[0])
    client.put_object(Bucket=bucket, Key=key, Body=content.body, ChecksumSHA256=content.checksum)
    told(planned[0].length)


def _send_parts(
    client: S3Client,
    bucket: str,
    key: str,
    parts: Parts,
    *,
    planned: list[Part],
    connections: int,
    told: Callable[[int], None],
) -> None:
    def send_part(part: Part) -> tuple[Part, CompletedPartTypeDef]:
        content = parts.read(part)
        answer = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=upload,
            PartNumber=part.number,
            Body=content.body,
            ChecksumSHA256=content.checksum,
        )
        return part, {"PartNumber": part.number, "ETag": answer["ETag"], "ChecksumSHA256": content.checksum}

    upload = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    pool = ThreadPoolExecutor(connections)
    try:
        sent: dict[int, CompletedPartTypeDef] = {}
        for future in as_completed([pool.submit(send_part, part) for part in planned]):
            part, completed = future.result()
            sent[part.number] = completed
            told(part.length)
        client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": [sent[n] for n in sorted(sent)]}
        )
    except BaseException:
        pool.shutdown(cancel_futures=True)  # before the abort: a part that arrives after it would stay
        with suppress(Exception):  # the first error is the one to tell
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise
    finally:
        pool.shutdown()
