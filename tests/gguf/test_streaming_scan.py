"""Scan the weights of a file while it is streamed."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.gguf import weights
from paddock.gguf.reader import read_header
from paddock.gguf.streaming_scan import StreamingWeightsScan
from paddock.model.finding import Finding
from tests.support import gguf as g
from tests.support.gguf import tiny_llama
from tests.support.memory import MemorySource


def model(*, damaged: bool = True, long_header: bool = False) -> bytes:
    file = tiny_llama()
    if damaged:
        file.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    if long_header:
        file.set("general.description", g.STRING, "x" * 3_000_000)
    return file.to_bytes()


def expected(data: bytes) -> tuple[Finding, ...]:
    return tuple(weights.check(MemorySource(data), read_header(MemorySource(data))))


def scan_in_pieces(data: bytes, cuts: list[int]) -> tuple[Finding, ...] | None:
    scan = StreamingWeightsScan(len(data))
    for start, end in itertools.pairwise(sorted({0, len(data), *cuts})):
        scan.feed(start, memoryview(data)[start:end])
    return scan.findings()


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), max_size=12), damaged=st.booleans(), long_header=st.booleans())
def test_the_findings_do_not_depend_on_the_sizes_of_the_pieces(
    cuts: list[float], damaged: bool, long_header: bool
) -> None:
    data = model(damaged=damaged, long_header=long_header)
    found = scan_in_pieces(data, [int(cut * len(data)) for cut in cuts])
    assert found == expected(data)
    assert bool(found) is damaged


@pytest.mark.parametrize("data", [b"", b"<html>", model()[:2000]], ids=["nothing", "a page", "a header cut short"])
def test_a_file_with_an_unreadable_header_has_no_findings(data: bytes) -> None:
    assert scan_in_pieces(data, []) is None


def test_a_stream_that_restarts_at_the_start_is_scanned_again() -> None:
    data = model()
    wrong = bytearray(data)
    wrong[-1] ^= 255
    scan = StreamingWeightsScan(len(data))
    scan.feed(0, memoryview(wrong))
    scan.feed(0, memoryview(data))
    assert scan.findings() == expected(data)


def test_a_stream_that_restarts_in_the_middle_has_no_findings() -> None:
    data = model()
    scan = StreamingWeightsScan(len(data))
    scan.feed(0, memoryview(data)[:9000])
    scan.feed(5000, memoryview(data)[5000:])
    assert scan.findings() is None


def test_an_incomplete_stream_has_no_findings() -> None:
    data = model()
    scan = StreamingWeightsScan(len(data))
    scan.feed(0, memoryview(data)[:-1])
    assert scan.findings() is None
