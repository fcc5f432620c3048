from __future__ import annotations

import hashlib
from base64 import b64encode
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import BlobMissing, CorruptFile
from paddock.model.artifact import SnapshotFile
from paddock.store.multipart import MAX_PARTS, MIN_PART_BYTES, MultipartReader, plan
from tests.support.segments import first_segments_of
from tests.support.stores import file_of

SEGMENT_BYTES = 3 * 1024 * 1024
CONTENT = b"".join(bytes([number]) * 1024 * 1024 for number in range(20))


@given(st.integers(0, 5 * 1024**4), st.integers(64 * 1024, 1024**3))
def test_the_parts_are_whole_segments_within_the_limits_of_s3(size: int, segment_bytes: int) -> None:
    parts = plan(size, segment_bytes=segment_bytes)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) <= MAX_PARTS
    assert sum(part.length for part in parts) == size
    assert all(part.offset % segment_bytes == 0 for part in parts)
    assert all(part.length >= MIN_PART_BYTES for part in parts[:-1])
    assert all(one.offset + one.length == other.offset for one, other in pairwise(parts))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


FILE = file_of("m.gguf", CONTENT, segment_bytes=SEGMENT_BYTES)
FILES = {
    "with segments": FILE,
    "with those of a first manifest": FILE.model_copy(update={"segments": first_segments_of(CONTENT, SEGMENT_BYTES)}),
    "without segments": FILE.model_copy(update={"segments": ()}),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_sound_parts_are_the_blob(blob: Path, file: SnapshotFile) -> None:
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
    told = f"is not what was stored, in the segment from byte {segment} on" if file.segments else "has the sha256"
    with blob.open("r+b") as damaged:
        damaged.seek(at)
        damaged.write(bytes([CONTENT[at] ^ 1]))
    with (
        pytest.raises(CorruptFile, match=rf"blob of m\.gguf.* is damaged: it {told}"),
        MultipartReader(blob, file, segment_bytes=SEGMENT_BYTES) as parts,
    ):
        list(map(parts.read, parts))


def test_another_size_and_a_missing_blob_are_told_at_once(tmp_path: Path, blob: Path) -> None:
    file = file_of("m.gguf", CONTENT[:-1], segment_bytes=SEGMENT_BYTES)
    with pytest.raises(CorruptFile, match=f"has {len(CONTENT)} bytes, not {len(CONTENT) - 1}"):
        MultipartReader(blob, file, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(BlobMissing):
        MultipartReader(tmp_path / "gone", file, segment_bytes=SEGMENT_BYTES)


def test_segments_of_another_length_are_told_at_once(blob: Path) -> None:
    file = file_of("m.gguf", CONTENT, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(CorruptFile, match="segments in its manifest"):
        MultipartReader(blob, file, segment_bytes=2 * SEGMENT_BYTES)


def test_no_bytes_are_one_empty_part(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with MultipartReader(tmp_path / "empty", file_of("e", b""), segment_bytes=SEGMENT_BYTES) as parts:
        assert [parts.read(part).body for part in parts] == [b""]
