"""Files that are named by their path, their name or a pattern."""

from __future__ import annotations

import pytest

from paddock.errors import BadSetting, FileNotInRevision
from paddock.model.quantization import group_shards
from paddock.planning.file_patterns import find_file

SPLIT = ("big/m-Q6_K-00001-of-00002.gguf", "big/m-Q6_K-00002-of-00002.gguf")
ODD = "m-Q5_K_M [final].gguf"
SETS = group_shards(
    (path, 1)
    for path in (
        "m-Q8_0.gguf",
        "m-Q4_K_M.gguf",
        "old/m-Q4_K_M.gguf",
        *SPLIT,
        ODD,
        "mmproj-Q8_0.gguf",
        "mmproj-F16.gguf",
    )
)


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
        ("old/m-Q4_K_M.gguf", "old/m-Q4_K_M.gguf"),
        ("old/*", "old/m-Q4_K_M.gguf"),
        ("big/*", SPLIT[0]),
        ("*Q6_K*", SPLIT[0]),
        ("m-Q6_K-00002-of-00002.gguf", SPLIT[0]),
        (ODD, ODD),
        ("M-Q8_0.GGUF", "m-Q8_0.gguf"),
        ("*q8_0*", "m-Q8_0.gguf"),
        ("*F16*", "mmproj-F16.gguf"),
        ("mmproj-q*", "mmproj-Q8_0.gguf"),
        ("m-Q?_0*", "m-Q8_0.gguf"),
    ],
)
def test_the_nearest_kind_of_match_counts(wanted: str, first: str) -> None:
    assert find_file(SETS, wanted, "org/name@12345678").first == first


@pytest.mark.parametrize(
    ("wanted", "listed"),
    [
        ("*Q4_K_M*", "m-Q4_K_M.gguf, old/m-Q4_K_M.gguf"),
        ("*4_k_m*", "m-Q4_K_M.gguf, old/m-Q4_K_M.gguf"),
        ("mmproj*", "mmproj-F16.gguf, mmproj-Q8_0.gguf"),
    ],
)
def test_several_matches_are_listed(wanted: str, listed: str) -> None:
    with pytest.raises(BadSetting) as caught:
        find_file(SETS, wanted, "org/name@12345678")
    assert caught.value.message == f"2 models of org/name@12345678 match {wanted!r}: {listed}"


@pytest.mark.parametrize("wanted", ["", "*Q2_K*", "Q8_0", "[", "config.json"])
def test_no_match_lists_what_there_is(wanted: str) -> None:
    with pytest.raises(FileNotInRevision) as caught:
        find_file(SETS, wanted, "org/name@12345678")
    assert caught.value.cure == f"use one of {', '.join(gguf.first for gguf in SETS)}"


def test_a_long_list_is_cut() -> None:
    many = group_shards((f"m{number:03}.gguf", 1) for number in range(100))
    with pytest.raises(BadSetting, match=r"^100 models of x match 'm\*': m000\.gguf, .*, m019\.gguf and 80 more: "):
        find_file(many, "m*", "x")
