"""Read S3 responses: do without headers that some servers leave out, and reject what is no S3 response.

A server that is not Amazon's, or a proxy in front of it, may send no ETag, no Last-Modified, or no length of an object
to HEAD. At the address there may also be no S3 server at all, but a web page, a console or another API; boto3 would
read its 404 as "no such object", and its page as an empty bucket.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as aws

_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?><\?xml[^>]*+>\s*+)?+(?><!--.*?-->\s*+)*+<(?:[\w.-]++:)?([\w.-]++)", re.DOTALL
)
_HEAD_BYTES = 64 * 1024
_NEVER_EMPTY = frozenset({"ListObjectsV2", "CreateMultipartUpload"})
# Answers of a proxy or a gateway, which say enough without a body. Not 500: botocore sets this status itself for an
# answer of 200 with a body that it cannot parse.
_BY_STATUS = frozenset({407, 408, 429, 502, 503, 504, 507})


class NotS3Answer(aws.BotoCoreError):
    """An answer that no S3 server gives. `what` describes it: "a web page"."""

    fmt = "the answer is {what}"

    def __init__(self, what: str) -> None:
        super().__init__(what=what)
        self.what = what


def refuse_other_answers(response_dict: Mapping[str, Any], operation_model: Any, **_: object) -> None:
    """boto3's event before an answer is parsed. Raises NotS3Answer."""
    body, status = response_dict.get("body"), int(response_dict["status_code"])
    if status in _BY_STATUS or not isinstance(body, bytes):
        return
    if not body.strip():
        if status < 300 and operation_model.name in _NEVER_EMPTY:
            raise NotS3Answer("empty")
        return
    match = _ROOT.match(body[:_HEAD_BYTES])
    root = match[1].decode() if match else ""
    if not (root.startswith("Error") or root.endswith("Result")):
        raise NotS3Answer(_description(body, root))


def _description(body: bytes, root: str) -> str:
    if root.lower() == "html" or body.lstrip()[:9].lower() == b"<!doctype":
        return "a web page"
    if body.lstrip()[:1] in {b"{", b"["}:
        return "JSON"
    return "not the XML of S3"


def tag_of_content(content: bytes) -> str:
    """The tag of an object whose server sends no ETag: what most servers use, the md5 of the content."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def tag_of_stat(answer: Mapping[str, Any], size: int) -> str:
    """The tag of an object from its HEAD: the ETag, else the size and the time of the last change."""
    return str(answer.get("ETag") or f"{size}-{answer.get('LastModified', '')}")


def age_s(answer: Mapping[str, Any]) -> float:
    """The age of an object by the server's clock; 0 where the server does not say when it was written."""
    modified = answer.get("LastModified")
    if not isinstance(modified, datetime):
        return 0.0
    now = _server_time(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
    return (now - modified).total_seconds()


def _server_time(date: str) -> datetime:
    try:
        return parsedate_to_datetime(date).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)
