"""A small S3 server in memory whose features can be switched off one by one, as other servers lack them.

With nothing switched off it passes the contract of a remote store. It has one bucket and path-style addresses, keeps
objects until it is closed, and does not check signatures. `Lack` says what can be switched off.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.http_server import QuietHandler, QuietServer, serving

Lack = Literal[
    "etag",  # no response has an ETag
    "length",  # HEAD responds without Content-Length
    "last-modified",  # no response has Last-Modified
    "status-206",  # a range is answered with 200 and its Content-Range
    "ranges",  # a range is answered with the whole object
    "presigned",  # presigned addresses are answered with 501
    "bytes",  # presigned addresses are answered with a web page
    "conditions",  # the conditions of a write are ignored
    "if-match",  # the condition If-Match is ignored
    "accepting-conditions",  # a write with a condition is answered with 501
    "checksums",  # a request with a checksum header is answered with 400
    "leases-404",  # a write of a lease is answered with 404
    "leases-412",  # a write of a lease is answered with 412
    "deletion",  # a deleted object leaves a delete marker, and If-None-Match does not hold for it
    "storing",  # a write is answered with 200, and nothing is stored
]
BUCKET = "models"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_XML = {"Content-Type": "application/xml"}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class _Object:
    content: bytes
    tag: str
    modified: datetime


@dataclass
class _Upload:
    id: str
    key: str
    parts: dict[int, _Object] = field(default_factory=dict)
    initiated: datetime = field(default_factory=lambda: datetime.now(UTC))


class _S3Error(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class LimitedS3:
    """A running server. `requests` are (method, key) of all requests so far."""

    endpoint: str
    lacks: frozenset[Lack]
    bucket: str = BUCKET
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, _Object] = field(default_factory=dict)
    uploads: dict[str, _Upload] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def contents(self, part: str) -> list[bytes]:
        """The contents of the objects with `part` in their key."""
        return [stored.content for key, stored in sorted(self.objects.items()) if part in key]


class _Handler(QuietHandler):
    s3: LimitedS3

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.s3.requests.append((self.command, key))
        try:
            self._check(bucket, key, query, body)
            with self.s3.lock:
                if self.command in {"GET", "HEAD"} and key and "uploadId" not in query:
                    stored = self._stored(key)
                else:
                    status, headers, answer = self._operate(key, query, body)
                    stored = None
            if stored is not None:
                self._send_object(stored)
            else:
                self._send(status, headers, answer)
        except _S3Error as error:
            text = f'<?xml version="1.0"?><Error><Code>{error.code}</Code><Message>for a test</Message></Error>'
            self._send(error.status, _XML, text.encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815 - the names are http.server's

    def _check(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        """Refuse what the server lacks, and a body that its checksum does not describe."""
        lacks, headers = self.s3.lacks, self.headers
        if bucket != self.s3.bucket:
            raise _S3Error(404, "NoSuchBucket")
        if "presigned" in lacks and "X-Amz-Signature" in query:
            raise _S3Error(501, "NotImplemented")
        if "checksums" in lacks and any(name.lower().startswith(("x-amz-checksum", "x-amz-sdk")) for name in headers):
            raise _S3Error(400, "InvalidArgument")
        if self.command == "PUT" and key.split("/")[-2:-1] == ["leases"]:
            for lack, status, code in (("leases-404", 404, "NoSuchKey"), ("leases-412", 412, "PreconditionFailed")):
                if lack in lacks:
                    raise _S3Error(status, code)
        if "accepting-conditions" in lacks and ("If-None-Match" in headers or "If-Match" in headers):
            raise _S3Error(501, "NotImplemented")
        checksum = headers.get("x-amz-checksum-sha256")
        if checksum and checksum != b64encode(hashlib.sha256(body).digest()).decode():
            raise _S3Error(400, "BadDigest")

    def _stored(self, key: str) -> _Object:
        try:
            return self.s3.objects[key]
        except KeyError:
            raise _S3Error(404, "NoSuchKey") from None

    def _operate(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the response to any request but a read of an object."""
        s3 = self.s3
        match self.command:
            case "GET" if "uploads" in query:
                return _xml("ListMultipartUploadsResult", *map(_listed_upload, self._uploads(query.get("prefix", ""))))
            case "GET" if "uploadId" in query:
                parts = sorted(self._upload(query["uploadId"]).parts.items())
                return _xml("ListPartsResult", *(_listed_part(number, part) for number, part in parts))
            case "GET":
                found = sorted(item for item in s3.objects.items() if item[0].startswith(query.get("prefix", "")))
                return _xml("ListBucketResult", *(_listed_object(key, stored) for key, stored in found))
            case "POST" if "uploads" in query:
                upload = _Upload(f"upload-{len(s3.requests)}", key)
                s3.uploads[upload.id] = upload
                return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload.id}</UploadId>")
            case "POST":
                upload = self._upload(query["uploadId"])
                numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
                if not numbers or not set(numbers) <= set(upload.parts):
                    raise _S3Error(400, "InvalidPart")
                self._store(key, b"".join(upload.parts[number].content for number in numbers))
                del s3.uploads[upload.id]
                return _xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key>")
            case "PUT" if "uploadId" in query:
                part = _object(body)
                self._upload(query["uploadId"]).parts[int(query["partNumber"])] = part
                return 200, self._tags(part), b""
            case "PUT":
                self._check_conditions(key)
                return 200, self._tags(self._store(key, body)), b""
            case _ if "uploadId" in query:
                s3.uploads.pop(query["uploadId"], None)
            case _:
                if s3.objects.pop(key, None) is not None:
                    s3.deleted.add(key)
        return 204, {}, b""

    def _check_conditions(self, key: str) -> None:
        if "conditions" in self.s3.lacks:
            return
        stored = self.s3.objects.get(key)
        is_marked = "deletion" in self.s3.lacks and key in self.s3.deleted
        none, tag = self.headers.get("If-None-Match"), self.headers.get("If-Match")
        if none and (stored is not None or is_marked):
            raise _S3Error(412, "PreconditionFailed")
        if "if-match" in self.s3.lacks:
            return
        if tag and stored is None:
            raise _S3Error(404, "NoSuchKey")
        if tag and stored is not None and stored.tag != tag:
            raise _S3Error(412, "PreconditionFailed")

    def _store(self, key: str, content: bytes) -> _Object:
        stored = _object(content)
        if "storing" not in self.s3.lacks:
            self.s3.objects[key] = stored
            self.s3.deleted.discard(key)
        return stored

    def _upload(self, upload_id: str) -> _Upload:
        try:
            return self.s3.uploads[upload_id]
        except KeyError:
            raise _S3Error(404, "NoSuchUpload") from None

    def _uploads(self, prefix: str) -> list[_Upload]:
        return [upload for upload in self.s3.uploads.values() if upload.key.startswith(prefix)]

    def _tags(self, stored: _Object) -> dict[str, str]:
        return {} if "etag" in self.s3.lacks else {"ETag": stored.tag}

    def _send_object(self, stored: _Object) -> None:
        lacks, content = self.s3.lacks, stored.content
        if "bytes" in lacks and "X-Amz-Signature" in self.path:
            self._send(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Console</title>")
            return
        headers = {**self._tags(stored), "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if "last-modified" not in lacks:
            headers["Last-Modified"] = format_datetime(stored.modified, usegmt=True)
        requested = _RANGE.fullmatch(self.headers.get("Range", "")) if "ranges" not in lacks else None
        status = 200
        if requested is not None and self.command == "GET":
            start, end = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
            if start >= len(content):
                raise _S3Error(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 200 if "status-206" in lacks else 206
        self._send(status, headers, content)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != http.client.NO_CONTENT and not ("length" in self.s3.lacks and self.command == "HEAD"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _object(content: bytes) -> _Object:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return _Object(content, f'"{digest}"', datetime.now(UTC))


def _xml(root: str, *items: str) -> tuple[int, dict[str, str], bytes]:
    text = f'<?xml version="1.0"?><{root}><IsTruncated>false</IsTruncated>{"".join(items)}</{root}>'
    return 200, _XML, text.encode()


def _listed_object(key: str, stored: _Object) -> str:
    return f"<Contents><Key>{escape(key)}</Key><Size>{len(stored.content)}</Size></Contents>"


def _listed_upload(upload: _Upload) -> str:
    initiated = upload.initiated.isoformat()
    return (
        f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{upload.id}</UploadId>"
        f"<Initiated>{initiated}</Initiated></Upload>"
    )


def _listed_part(number: int, part: _Object) -> str:
    return f"<Part><PartNumber>{number}</PartNumber><Size>{len(part.content)}</Size><ETag>{part.tag}</ETag></Part>"


@contextmanager
def limited_s3(*lacks: Lack) -> Iterator[LimitedS3]:
    """Run a server that lacks these features, until the context ends."""
    server = QuietServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    s3 = LimitedS3(f"http://127.0.0.1:{server.server_port}", frozenset(lacks))
    server.RequestHandlerClass = type("Handler", (_Handler,), {"s3": s3})
    with serving(server):
        yield s3
