"""Small objects: read with the tag of what was read, and written on the condition that nobody wrote in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore import exceptions as aws

from paddock.store.s3.errors import asking, is_absent, is_lost_race
from paddock.store.snapshots import MANIFEST_MAX_BYTES

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read. `tag` is its ETag; `age_s` its age by the server's own clock, so that no two clocks are
    compared (by ours where the server does not tell the time)."""

    content: bytes
    tag: str
    age_s: float


class Objects:
    """The objects of one bucket. `label` says which, for people; `always` goes with every write."""

    def __init__(self, client: Callable[[], S3Client], bucket: str, *, label: str, always: dict[str, Any]) -> None:
        self._client = client
        self._bucket = bucket
        self._label = label
        self._always = always

    def get(self, key: str) -> Found | None:
        """None when it is not there. What is longer than any manifest is cut off."""
        with asking(self._label):
            try:
                answer = self._client().get_object(Bucket=self._bucket, Key=key)
            except aws.ClientError as error:
                if is_absent(error):
                    return None
                raise
            with answer["Body"] as body:
                content = body.read(MANIFEST_MAX_BYTES + 1)
        now = _server_time(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
        return Found(content, answer["ETag"], (now - answer["LastModified"]).total_seconds())

    def put(self, key: str, content: bytes) -> None:
        with asking(self._label):
            self._client().put_object(
                Bucket=self._bucket, Key=key, Body=content, ContentType="text/plain; charset=utf-8", **self._always
            )

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        """Write it where it is still what had that tag; with None, where there is none. Its new tag, or None when
        somebody else wrote or removed it meanwhile."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with asking(self._label):
            try:
                answer = self._client().put_object(
                    Bucket=self._bucket, Key=key, Body=content, **condition, **self._always
                )
            except aws.ClientError as error:
                if is_lost_race(error) or is_absent(error):
                    return None
                raise
        return answer["ETag"]

    def delete(self, key: str) -> None:
        with asking(self._label):
            self._client().delete_object(Bucket=self._bucket, Key=key)


def _server_time(date: str) -> datetime:
    try:
        return parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)
