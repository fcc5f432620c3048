"""Stored files are read once, to check their digests and their weights."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.model.artifact import SnapshotFile
from paddock.model.finding import Finding
from paddock.model.names import Sha256
from paddock.model.source import Expected
from paddock.transfer.digest import verify_file
from paddock.validation.integrity import check_stored
from tests.support.gguf import tiny_llama
from tests.support.segments import first_segments_of

SEGMENT_BYTES = 4096


def stored(path: Path, data: bytes) -> SnapshotFile:
    path.write_bytes(data)
    sha256, segments = verify_file(path, Expected(len(data)), SEGMENT_BYTES)
    return SnapshotFile(path=path.name, size=len(data), sha256=sha256, segments=segments)


def check(path: Path, file: SnapshotFile) -> list[Finding]:
    return list(check_stored(path, file, segment_bytes=SEGMENT_BYTES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny-Q8_0.gguf"


def test_an_undamaged_file_has_no_findings(path: Path) -> None:
    assert check(path, stored(path, tiny_llama().to_bytes())) == []


@pytest.mark.parametrize("name", ["config.json", "broken.gguf"])
def test_files_other_than_gguf_are_only_checked_against_their_digest(tmp_path: Path, name: str) -> None:
    file = stored(tmp_path / name, b"{}" * 5000)
    assert check(tmp_path / name, file) == []
    (tmp_path / name).write_bytes(b"{}" * 4999 + b"{]")
    assert [finding.rule for finding in check(tmp_path / name, file)] == ["integrity.sha256"]


@pytest.mark.parametrize("first", [False, True], ids=["blake3", "sha256, as in a first manifest"])
def test_a_changed_byte_is_found_and_its_segment_named(path: Path, *, first: bool) -> None:
    data = bytearray(tiny_llama().to_bytes())
    file = stored(path, bytes(data))
    if first:
        file = replace(file, segments=first_segments_of(bytes(data), SEGMENT_BYTES))
    data[2 * SEGMENT_BYTES + 7] ^= 1
    data[-1] ^= 1
    path.write_bytes(data)
    (finding,) = check(path, file)
    assert (finding.rule, finding.where) == ("integrity.sha256", path.name)
    last = len(file.segments) - 1
    assert f"segments 2, {last} of {len(file.segments)} (from 0)" in finding.message
    assert file.sha256 in finding.message
    assert finding.cure


@pytest.mark.parametrize("change", [-1, 1])
def test_a_changed_size_is_found_without_reading_the_file(path: Path, change: int) -> None:
    data = tiny_llama().to_bytes()
    file = stored(path, data)
    path.write_bytes(data[:-1] if change < 0 else data + b"x")
    (finding,) = check(path, file)
    assert finding.rule == "integrity.size"
    assert f"has {len(data) + change} bytes, and {len(data)} were stored" in finding.message


def test_a_missing_file_is_named(path: Path) -> None:
    file = SnapshotFile(path=path.name, size=5, sha256=Sha256("0" * 64))
    (finding,) = check(path, file)
    assert (finding.rule, finding.where) == ("integrity.unreadable", path.name)


def test_weights_that_are_not_finite_are_found_in_the_same_read(path: Path) -> None:
    model = tiny_llama()
    model.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    (finding,) = check(path, stored(path, model.to_bytes()))
    assert finding.rule == "gguf.weights.finite"
    assert finding.where.startswith(f"{path.name}: byte ")
