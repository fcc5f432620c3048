"""Bodies of HTTP answers: bounded in bytes after decompression, and by one deadline for all of a body."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator

import pytest

from paddock.untrusted.body import read_body
from paddock.untrusted.content import UnusableContent

CONTENT = os.urandom(1000) * 200
ENCODED = {"": CONTENT, "identity": CONTENT, "gzip": gzip.compress(CONTENT), "DEFLATE": zlib.compress(CONTENT)}


def parts(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("size", [777, 65536, 10**9])
def test_a_body_is_read_in_parts_of_any_size(encoding: str, size: int) -> None:
    chunks = parts(ENCODED[encoding], size)
    assert read_body(chunks, max_bytes=len(CONTENT), deadline_s=60, encoding=encoding) == CONTENT
    assert read_body([], max_bytes=0, deadline_s=60, encoding=encoding) == b""


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_larger_body_is_refused_once_its_bound_is_passed(encoding: str) -> None:
    read: list[int] = []

    def chunks() -> Iterator[bytes]:
        for part in parts(ENCODED[encoding], 512):
            read.append(len(part))
            yield part

    with pytest.raises(UnusableContent, match="it is larger than 100000 bytes"):
        read_body(chunks(), max_bytes=100_000, deadline_s=60, encoding=encoding)
    assert sum(read) <= 100_000 + 512


def test_a_few_bytes_do_not_become_many() -> None:
    bomb = zlib.compress(bytes(20 * 1024 * 1024))
    assert len(bomb) < 30_000
    with pytest.raises(UnusableContent, match="larger than"):
        read_body([bomb], max_bytes=1024 * 1024, deadline_s=60, encoding="deflate")


def test_a_body_that_trickles_is_refused_at_its_deadline() -> None:
    now = 0.0

    def trickle() -> Iterator[bytes]:
        nonlocal now
        while True:
            now += 1
            yield b"a"

    with pytest.raises(UnusableContent, match="it was not complete after 30 s"):
        read_body(trickle(), max_bytes=10**6, deadline_s=30, clock=lambda: now)
    assert now == 31


@pytest.mark.parametrize(
    ("content", "encoding", "reason"),
    [
        (b"no gzip", "gzip", "it cannot be decompressed"),
        (ENCODED["gzip"][:-100], "gzip", "it ends before its compressed data do"),
        (b"abc", "br", "it has the encoding 'br'"),
        (b"abc", "gzip, gzip", "it has the encoding"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_refused(content: bytes, encoding: str, reason: str) -> None:
    with pytest.raises(UnusableContent, match=reason):
        read_body([content], max_bytes=10**6, deadline_s=60, encoding=encoding)
