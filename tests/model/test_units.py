"""Formatting and parsing of sizes and durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import BadSetting
from paddock.model.units import human_bytes, human_time, parse_bytes

SHOWN = [
    (0, "0 B"),
    (1, "1 B"),
    (1023, "1023 B"),
    (1024, "1.0 KiB"),
    (1536, "1.5 KiB"),
    (2**20 - 1, "1.0 MiB"),
    (2**20, "1.0 MiB"),
    (10**9, "953.7 MiB"),
    (24 * 2**30, "24.0 GiB"),
    (2**40, "1.0 TiB"),
    (2**50, "1.0 PiB"),
    (5000 * 2**50, "5000.0 PiB"),
]
READ = [
    ("0", 0),
    ("4096", 4096),
    ("4096B", 4096),
    (" 24GiB ", 24 * 2**30),
    ("24 GiB", 24 * 2**30),
    ("24gib", 24 * 2**30),
    ("24G", 24 * 2**30),
    ("24Gi", 24 * 2**30),
    ("24GB", 24 * 10**9),
    ("24gb", 24 * 10**9),
    ("500MB", 500 * 10**6),
    ("64MiB", 64 * 2**20),
    ("64k", 64 * 2**10),
    ("64KB", 64 * 10**3),
    ("2T", 2 * 2**40),
    ("1PB", 10**15),
    ("1.5G", 3 * 2**29),
    ("0.1KiB", 102),
    ("9007199254740993", 9007199254740993),
]
REFUSED = [
    "",
    " ",
    "B",
    "GiB",
    "-1",
    "+1",
    "1e9",
    "1,5G",
    "1.G",
    ".5G",
    "1i",
    "1iB",
    "1 Gi B",
    "1XB",
    "1GiBs",
    "ten",
    "inf",
    "nan",
    "0x10",
    "1_000",
    "١G",
    "1G\0",
    "9" * 400,
    "1\n2",
]


@pytest.mark.parametrize(("size", "text"), SHOWN, ids=[text for _, text in SHOWN])
def test_a_size_is_shown_in_binary_units(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


@given(st.integers(0, 2**60))
def test_a_formatted_size_is_parsed_within_its_precision(size: int) -> None:
    text = human_bytes(size)
    assert abs(parse_bytes(text) - size) <= size * 0.05
    assert float(text.split()[0]) < 1024 or text.endswith("PiB")


@pytest.mark.parametrize(("text", "size"), READ, ids=[repr(text) for text, _ in READ])
def test_a_size_is_parsed_exactly(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@given(st.integers(0, 10**18 - 1))
def test_a_number_without_a_unit_is_bytes(size: int) -> None:
    assert parse_bytes(str(size)) == size


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:12]))
def test_an_invalid_size_is_refused_with_the_text_quoted(text: str) -> None:
    with pytest.raises(BadSetting, match="is not a size") as caught:
        parse_bytes(text)
    assert repr(text[:40]) in str(caught.value)
    assert "KiB" in caught.value.cure
