"""The weights of a file whose bytes pass by once."""

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
from tests.support.memory import Memory


def model(*, damaged: bool = True, long_header: bool = False) -> bytes:
    file = tiny_llama()
    if damaged:
        file.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    if long_header:
        file.set("general.description", g.STRING, "x" * 3_000_000)
    return file.to_bytes()


def expected(data: bytes) -> tuple[Finding, ...]:
    return tuple(weights.check(Memory(data), read_header(Memory(data))))


def passed(data: bytes, marks: list[int]) -> tuple[Finding, ...] | None:
    passing = StreamingWeightsScan(len(data))
    for start, end in itertools.pairwise(sorted({0, len(data), *marks})):
        passing.take(start, memoryview(data)[start:end])
    return passing.findings()


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), max_size=12), damaged=st.booleans(), long_header=st.booleans())
def test_in_whatever_pieces_they_pass_the_findings_are_those_of_the_file(
    cuts: list[float], damaged: bool, long_header: bool
) -> None:
    data = model(damaged=damaged, long_header=long_header)
    found = passed(data, [int(cut * len(data)) for cut in cuts])
    assert found == expected(data)
    assert bool(found) is damaged


@pytest.mark.parametrize("data", [b"", b"<html>", model()[:2000]], ids=["nothing", "a page", "a header cut short"])
def test_of_a_file_whose_header_cannot_be_read_nothing_is_said(data: bytes) -> None:
    assert passed(data, []) is None


def test_bytes_that_pass_again_from_the_start_count(  # as after a repair
) -> None:
    data = model()
    wrong = bytearray(data)
    wrong[-1] ^= 255
    passing = StreamingWeightsScan(len(data))
    passing.take(0, memoryview(wrong))
    passing.take(0, memoryview(data))
    assert passing.findings() == expected(data)


def test_after_bytes_that_pass_again_from_the_middle_nothing_is_said() -> None:
    data = model()
    passing = StreamingWeightsScan(len(data))
    passing.take(0, memoryview(data)[:9000])
    passing.take(5000, memoryview(data)[5000:])
    assert passing.findings() is None


def test_of_what_has_not_passed_whole_nothing_is_said() -> None:
    data = model()
    passing = StreamingWeightsScan(len(data))
    passing.take(0, memoryview(data)[:-1])
    assert passing.findings() is None
