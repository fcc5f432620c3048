"""Answers in place of S3's without an end, too long, too short, or compressed are refused within bounds."""

from __future__ import annotations

import gzip
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from paddock.errors import PaddockError, StoreRefused, StoreUnavailable
from tests.support.fixed_response import fixed_response_server
from tests.support.http_server import QuietHandler, QuietServer, serving
from tests.support.limited_s3 import ENVIRONMENT
from tests.support.stores import MODEL, S3Store

PAGE = b'<?xml version="1.0"?><ListBucketResult><Name>models</Name>'
NEXT = "<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken></ListBucketResult>"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], S3Store]:
    """Make the store at an endpoint, as a process does from its environment."""

    def use(endpoint: str) -> S3Store:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        return S3Store("s3://models/prefix")

    return use


@contextmanager
def endless(status: int, begin: bytes, part: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server whose bodies have no end, and no length; (its address, how many bytes it has sent)."""
    sent = [0]

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.send_response(status)
            self.end_headers()
            try:
                self.wfile.write(begin)
                while True:
                    self.wfile.write(part)
                    sent[0] += len(part)
            except OSError:  # the client left
                return

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}", sent


@pytest.mark.parametrize("status", [200, 403])
def test_a_listing_without_an_end_is_refused(use: Callable[[str], S3Store], status: int) -> None:
    with endless(status, PAGE, b"<Prefix>" + b"a" * 65536 + b"</Prefix>") as (endpoint, sent):
        with pytest.raises(
            StoreRefused, match=r"what answers is no S3 server, since its answer is larger than"
        ) as error:
            use(endpoint).ids(MODEL)
        assert "AWS_ENDPOINT_URL" in error.value.cure
        assert sent[0] < 64 * 1024 * 1024


def test_an_error_without_an_end_is_refused_where_an_object_was_requested(use: Callable[[str], S3Store]) -> None:
    refused = pytest.raises(StoreRefused, match="larger than")
    with endless(403, b"<Error>", b"<Code>AccessDenied</Code>" * 1000) as (endpoint, _), refused:
        use(endpoint).read_note("a/note")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!---->" * 60 + b"x", {}),
        (b"<!--" * 60_000, {}),
        (b"<?xml" + b" " * 200_000, {}),
        (gzip.compress(PAGE + b"a" * 10_000_000), {"Content-Encoding": "gzip"}),
        (PAGE + b"<Contents><Size>" + b"9" * 5000 + b"</Size></Contents></ListBucketResult>", {}),
        (b"\0" * 100_000, {}),
    ],
    ids=["comments", "begun comments", "a begun declaration", "compressed", "5,000 digits", "NULs"],
)
def test_a_body_that_is_no_listing_is_refused_at_once(
    use: Callable[[str], S3Store], body: bytes, headers: dict[str, str]
) -> None:
    with fixed_response_server(body, headers={"Content-Type": "application/xml", **headers}) as endpoint:
        store = use(endpoint)
        began = time.monotonic()
        with pytest.raises(StoreRefused):
            store.ids(MODEL)
        assert time.monotonic() - began < 5


def test_rows_of_another_prefix_or_without_a_key_or_size_are_no_objects(use: Callable[[str], S3Store]) -> None:
    row = "<Contents><Key>%s</Key><Size>%s</Size></Contents>"
    rows = [("prefix/blobs/sha256/" + "a" * 64, "3"), ("other/blobs/sha256/" + "b" * 64, "3")]
    rows += [("prefix/blobs/sha256/" + "c" * 64, str(2**70)), ("prefix/blobs/sha256/../../x", "1")]
    body = PAGE + "".join(row % pair for pair in rows).encode() + b"<Contents></Contents></ListBucketResult>"
    with fixed_response_server(body, headers={"Content-Type": "application/xml"}) as endpoint:
        assert use(endpoint).blobs() == {"a" * 64: 3}


def test_an_object_that_ends_early_is_not_read_as_if_it_were_whole(use: Callable[[str], S3Store]) -> None:
    half = fixed_response_server(b"half", headers={"Content-Length": "8"})
    with half as endpoint, pytest.raises(StoreUnavailable):
        use(endpoint).read_note("a/note")


@pytest.mark.parametrize("body", [b"\xff\xfe", b"\0\xff" * 10], ids=["bad UTF-8", "bytes"])
def test_a_note_that_is_no_text_is_none(use: Callable[[str], S3Store], body: bytes) -> None:
    with fixed_response_server(body) as endpoint:
        assert use(endpoint).read_note("a/note") is None


@pytest.mark.torture
def test_pages_without_an_end_are_refused(use: Callable[[str], S3Store]) -> None:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            body = PAGE + (NEXT % secrets.token_hex(8)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server), pytest.raises(PaddockError, match="has no end"):
        use(f"http://127.0.0.1:{server.server_port}").ids(MODEL)
