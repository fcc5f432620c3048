"""A local blob is read in verified parts, within the limits of S3."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import BlobMissing, CorruptFile
from paddock.model.artifact import SnapshotFile
from paddock.store.multipart import MAX_PARTS, MIN_PART_BYTES, MultipartReader, plan_parts
from tests.support.segments import first_segments_of
from tests.support.stores import file_of

SEGMENT_BYTES = 3 * 1024 * 1024
CONTENT = b"".join(bytes([number]) * 1024 * 1024 for number in range(20))


@given(st.integers(0, 5 * 1024**4), st.integers(64 * 1024, 1024**3))
def test_the_parts_are_whole_segments_within_the_limits_of_s3(size: int, segment_bytes: int) -> None:
    parts = plan_parts(size, segment_bytes=segment_bytes)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) <= MAX_PARTS
    assert sum(part.length for part in parts) == size
    assert all(part.offset % segment_bytes == 0 for part in parts)
    assert all(part.length >= MIN_PART_BYTES for part in parts[:-1])
    assert all(part.offset + part.length == following.offset for part, following in pairwise(parts))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


FILE = file_of("m.gguf", CONTENT, segment_bytes=SEGMENT_BYTES)
FILES = {
    "with segments": FILE,
    "with those of a first manifest": replace(FILE, segments=first_segments_of(CONTENT, SEGMENT_BYTES)),
    "without segments": replace(FILE, segments=()),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_the_parts_of_a_sound_blob_are_its_bytes(blob: Path, file: SnapshotFile) -> None:
    with MultipartReader(blob, file, segment_bytes=SEGMENT_BYTES) as parts:
        read = [parts.read(part) for part in parts]
    assert b"".join(content.body for content in read) == CONTENT
    assert [content.checksum for content in read] == [
        b64encode(hashlib.sha256(content.body).digest()).decode() for content in read
    ]


@pytest.mark.parametrize("at", [0, SEGMENT_BYTES, 10 * 1024 * 1024, len(CONTENT) - 1])
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_one_flipped_bit_is_found(blob: Path, at: int, file: SnapshotFile) -> None:
    segment = at // SEGMENT_BYTES * SEGMENT_BYTES
    damage = (
        f"has another digest than its manifest states, in the segment at byte {segment}"
        if file.segments
        else "has the sha256"
    )
    with blob.open("r+b") as damaged:
        damaged.seek(at)
        damaged.write(bytes([CONTENT[at] ^ 1]))
    with (
        pytest.raises(CorruptFile, match=rf"blob of m\.gguf.* is damaged: it {damage}"),
        MultipartReader(blob, file, segment_bytes=SEGMENT_BYTES) as parts,
    ):
        list(map(parts.read, parts))


def test_another_size_and_a_missing_blob_are_refused_when_it_is_opened(tmp_path: Path, blob: Path) -> None:
    file = file_of("m.gguf", CONTENT[:-1], segment_bytes=SEGMENT_BYTES)
    with pytest.raises(CorruptFile, match=f"has {len(CONTENT)} bytes, not {len(CONTENT) - 1}"):
        MultipartReader(blob, file, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(BlobMissing):
        MultipartReader(tmp_path / "gone", file, segment_bytes=SEGMENT_BYTES)


def test_segments_of_another_length_are_refused_when_it_is_opened(blob: Path) -> None:
    file = file_of("m.gguf", CONTENT, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(CorruptFile, match="but its manifest 7 segments of 6291456 bytes"):
        MultipartReader(blob, file, segment_bytes=2 * SEGMENT_BYTES)


def test_an_empty_blob_is_one_empty_part(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with MultipartReader(tmp_path / "empty", file_of("e", b""), segment_bytes=SEGMENT_BYTES) as parts:
        assert [parts.read(part).body for part in parts] == [b""]
