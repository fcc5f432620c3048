"""Read the bodies of S3's answers, with bounds on their size and on the time for all of it.

botocore reads the body of an answer to any request but GetObject as a whole, and a body of one byte before each timeout
has no end. So requests are sent from here, and botocore gets an answer whose body is read already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from botocore import exceptions as aws
from botocore.awsrequest import AWSResponse
from urllib3.exceptions import HTTPError, ReadTimeoutError

from paddock.store.remote.objects import MAX_OBJECT_BYTES
from paddock.store.s3.answers import NotS3Answer
from paddock.untrusted.body import read_body
from paddock.untrusted.content import UnusableContent

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_DEADLINE_S = 120.0
_MAX_ANSWER_BYTES = 16 * 1024 * 1024  # a page of a listing has 1,000 keys of at most 1 KiB each
_CHUNK_BYTES = 64 * 1024
_HTTP_ERROR = 300


def bound_answers(client: S3Client) -> None:
    """Bound the bodies of all answers that botocore reads itself. That of an object is bounded by `read_object`."""
    session = client._endpoint.http_session  # type: ignore[attr-defined]  # no public name leads to it

    def send(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        is_object = request.stream_output
        request.stream_output = True  # else the whole body is read in `send`
        answer: AWSResponse = session.send(request)
        if is_object and answer.status_code < _HTTP_ERROR:
            return answer
        content = _read(answer.raw, answer.url, max_bytes=_MAX_ANSWER_BYTES)
        return AWSResponse(answer.url, answer.status_code, answer.raw.headers, _ReadBody(content))

    client.meta.events.register("before-send.s3", send)  # type: ignore[arg-type]  # this event takes an answer


def read_object(body: StreamingBody, length: int | None) -> bytes:
    """The content of a small object, cut one byte after MAX_OBJECT_BYTES. `length` is what the answer states. Raises
    botocore's errors."""
    # Its own methods wait for all the bytes that they are asked for.
    raw: Any = body._raw_stream  # type: ignore[attr-defined]  # there is no public name for it
    content = _read(raw, "", max_bytes=MAX_OBJECT_BYTES, cut=True)
    if length is not None and len(content) < min(length, MAX_OBJECT_BYTES):
        raise aws.IncompleteReadError(actual_bytes=len(content), expected_bytes=length)
    return content


class _ReadBody:
    """The body of an answer that is read already, as botocore reads one."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        yield self._content


def _read(raw: Any, url: str, *, max_bytes: int, cut: bool = False) -> bytes:
    try:
        chunks = _chunks(raw, max_bytes + 1 if cut else None)
        return read_body(chunks, max_bytes=max_bytes + cut, deadline_s=_DEADLINE_S)
    except UnusableContent as error:
        raise NotS3Answer(error.reason.removeprefix("it is ").removeprefix("it ")) from None
    except ReadTimeoutError as error:
        raise aws.ReadTimeoutError(endpoint_url=url, error=error) from None
    except HTTPError as error:
        raise aws.HTTPClientError(error=error) from None
    finally:
        raw.close()


def _chunks(raw: Any, most_bytes: int | None) -> Iterator[bytes]:
    """The bytes of a body as they arrive, and no more than `most_bytes`."""
    left = most_bytes
    while left is None or left > 0:
        chunk = raw.read1(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left))
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk
