"""Parsing of targets."""

from __future__ import annotations

import re

import pytest

from paddock.errors import BadSetting
from paddock.planning.placement import Target
from paddock.planning.targets import CARDS_MIB, DRIVER_RESERVED_BYTES, TARGET_PATTERN, UNBOUNDED, parse_target

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("this-machine", None),
        ("any", UNBOUNDED),
        ("64GiB", Target(64 * GIB)),
        ("64 GB", Target(64 * 10**9)),
        ("24GiB-gpu", Target(32 * GIB, (24 * GIB - DRIVER_RESERVED_BYTES,))),
        ("4x-24GiB-gpu+256GiB", Target(256 * GIB, (24 * GIB - DRIVER_RESERVED_BYTES,) * 4)),
        ("4x24gib-gpu", Target(128 * GIB, (24 * GIB - DRIVER_RESERVED_BYTES,) * 4)),
        ("rtx-4090", Target(32 * GIB, (24_564 * 2**20 - DRIVER_RESERVED_BYTES,))),
        ("2x-A100-80GB", Target(64 * GIB, (81_920 * 2**20 - DRIVER_RESERVED_BYTES,) * 2)),
        ("l4+128GiB", Target(128 * GIB, (23_034 * 2**20 - DRIVER_RESERVED_BYTES,))),
    ],
)
def test_a_target_is_parsed_to_its_memory(text: str, target: Target | None) -> None:
    assert parse_target(text) == target
    assert re.fullmatch(TARGET_PATTERN, text)


@pytest.mark.parametrize("text", ["", "rtx-9999", "2x64GiB", "64GiB+1GiB", "17x-l4", "0x-l4", "l4+", "l4+much", "x-l4"])
def test_an_unknown_target_is_refused_with_the_allowed_ones(text: str) -> None:
    with pytest.raises(BadSetting, match=r"is not a known machine|1 to 16 are allowed|is not a size"):
        parse_target(text)


@pytest.mark.parametrize("name", CARDS_MIB)
def test_every_known_gpu_matches_the_pattern_of_forms(name: str) -> None:
    assert re.fullmatch(TARGET_PATTERN, f"2x-{name}+64GiB")
    target = parse_target(name)
    assert target is not None
    assert 10 * GIB < target.vram_bytes[0] < 200 * GIB
