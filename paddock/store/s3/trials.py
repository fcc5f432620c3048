"""Try the features of an S3 server that only its responses show: ETag, length, checksums and multipart uploads."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from botocore import exceptions as aws

from paddock.store.s3.answers import tag_of_content
from paddock.store.s3.errors import error_code, error_status, mapped_errors, may_refuse_a_header

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONTENT = b"a part"


def trials_of(
    make_client: Callable[[], S3Client], bucket: str, key: str, *, label: str
) -> dict[str, Callable[[], str]]:
    """The trials of `Objects.trials`, with an object at `key`."""

    def put() -> None:
        make_client().put_object(Bucket=bucket, Key=key, Body=_CONTENT)

    def etag() -> str:
        put()
        return "" if make_client().head_object(Bucket=bucket, Key=key).get("ETag") else "HEAD is answered without ETag"

    def length() -> str:
        put()
        answer = make_client().head_object(Bucket=bucket, Key=key)
        return "" if answer.get("ContentLength") == len(_CONTENT) else "HEAD is answered without the object's length"

    def checksums() -> str:
        checksum = b64encode(sha256(_CONTENT).digest()).decode()
        try:
            make_client().put_object(Bucket=bucket, Key=key, Body=_CONTENT, ChecksumSHA256=checksum)
        except aws.ClientError as error:
            if not may_refuse_a_header(error):
                raise
            return f"a checksum header is answered with {error_status(error)} ({error_code(error)})"
        return ""

    def multipart() -> str:
        client = make_client()
        upload_id = client.create_multipart_upload(Bucket=bucket, Key=key).get("UploadId", "")
        try:
            part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=1, Body=_CONTENT)
            client.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part.get("ETag") or tag_of_content(_CONTENT)}]},
            )
        except aws.ClientError:
            with suppress(aws.ClientError, aws.BotoCoreError):
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
            raise
        with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
            return "" if body.read() == _CONTENT else "the object of an upload does not have the bytes of its parts"

    def mapped(trial: Callable[[], str]) -> Callable[[], str]:
        def run() -> str:
            with mapped_errors(label):
                return trial()

        return run

    trials = {"ETag": etag, "length on HEAD": length, "checksums": checksums, "multipart uploads": multipart}
    return {name: mapped(trial) for name, trial in trials.items()}
