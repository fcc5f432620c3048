"""Digests of local files."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import CorruptFile
from paddock.model.source import Expected
from paddock.transfer.digest import RunningDigest, verify_file
from paddock.untrusted.content import UnusableContent
from tests.support.segments import segment_of, segments_of
from tests.transfer.remote import KIB, MIB, content, expected, git_sha1_of, sha256_of


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 3 * MIB])
def test_a_sound_file_gives_its_digest_and_those_of_its_segments(tmp_path: Path, size: int) -> None:
    data = content(size)
    (tmp_path / "file").write_bytes(data)
    whole, segments = verify_file(tmp_path / "file", expected(data), 64 * KIB)
    assert whole == sha256_of(data)
    assert segments == segments_of(data, 64 * KIB)


def test_a_segment_digest_is_standard_blake3(tmp_path: Path) -> None:
    # BLAKE3's own test vector of one byte: https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors
    (tmp_path / "file").write_bytes(b"\0")
    _, segments = verify_file(tmp_path / "file", Expected(1), MIB)
    assert segments == ("blake3:2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",)


def test_a_git_digest_is_verified(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert verify_file(tmp_path / "file", Expected(7, git_sha1=git_sha1_of(b"content")), MIB)[0] == sha256_of(
        b"content"
    )
    with pytest.raises(CorruptFile, match="git sha1"):
        verify_file(tmp_path / "file", Expected(7, git_sha1=git_sha1_of(b"CONTENT")), MIB)


@pytest.mark.parametrize(
    ("content_found", "message"),
    [(b"conten", "has 6 bytes, expected 7"), (b"contents", "has 8 bytes, expected 7"), (b"c0ntent", "is damaged")],
)
def test_a_file_with_other_content_is_corrupt(tmp_path: Path, content_found: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content_found)
    with pytest.raises(CorruptFile, match=message):
        verify_file(tmp_path / "file", expected(b"content"), MIB)


def test_large_blocks_are_hashed_in_threads_at_once_and_all_before_the_next_one(tmp_path: Path) -> None:
    data = content(3 * MIB)
    (tmp_path / "file").write_bytes(data)
    seen, threads = bytearray(), set[str]()

    def on_block(offset: int, block: memoryview) -> None:
        assert offset == len(seen)
        seen.extend(block)
        threads.add(threading.current_thread().name)

    expected_digest = Expected(len(data), sha256_of(data), git_sha1_of(data))
    assert verify_file(tmp_path / "file", expected_digest, MIB, on_block=on_block) == (
        sha256_of(data),
        segments_of(data, MIB),
    )
    assert seen == data
    assert threads <= {"paddock-block_0", "paddock-block_1", "paddock-block_2"}
    assert threads


@pytest.mark.parametrize("size", [100, MIB])
def test_what_a_reader_of_blocks_raises_ends_the_reading(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content(2 * size))
    calls = []

    def on_block(offset: int, _: memoryview) -> None:
        calls.append(offset)
        raise UnusableContent("the reader's own")

    with pytest.raises(UnusableContent, match="the reader's own"):
        verify_file(tmp_path / "file", Expected(2 * size), size, on_block=on_block)
    assert calls == [0]


@given(data=st.binary(max_size=200), segment_bytes=st.integers(1, 50), cuts=st.lists(st.integers(1, 60)))
def test_a_prefix_has_the_digest_of_its_segment_so_far(data: bytes, segment_bytes: int, cuts: list[int]) -> None:
    digest = RunningDigest(len(data), segment_bytes=segment_bytes)
    for cut in [*cuts, *([1] * len(data))]:
        end = min(digest.position + cut, digest.segment_end)
        if end == digest.position:
            break
        digest.update(memoryview(data)[digest.position : end])
        begin = (end - 1) // segment_bytes * segment_bytes
        assert digest.segment_prefix == segment_of(data[begin:end])
        assert digest.sha256 == hashlib.sha256(data[:end]).hexdigest()
        before = digest.segment_prefix, digest.sha256
        duplicate = digest.copy()
        assert (duplicate.segment_prefix, duplicate.sha256) == before
        if duplicate.position < len(data):
            duplicate.update(memoryview(data)[duplicate.position : duplicate.position + 1])
        assert (digest.segment_prefix, digest.sha256) == before
