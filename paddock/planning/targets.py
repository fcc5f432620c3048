"""Parse a target: the machine that a model is planned for, as users write it.

    this-machine        the machine that runs Paddock
    any                 unlimited memory, for a machine that is not known yet
    64GiB               a machine with 64 GiB of memory and no GPU
    rtx-4090            a machine with one GPU; `2x-a100-80gb` with two, `l4+128GiB` with 128 GiB of host memory
    24GiB-gpu           a machine with one GPU of 24 GiB; `4x-24GiB-gpu+256GiB` with four, and 256 GiB of host memory

The memory of a GPU is the total that its driver reports (`nvidia-smi`), which is less than the nominal size, minus half
a GiB that the driver reserves (480 MiB on an H100). Host memory is 32 GiB for each GPU unless it is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from paddock.errors import BadSetting
from paddock.model.units import parse_bytes
from paddock.planning.placement import Target

THIS_MACHINE: Final = "this-machine"
ANY: Final = "any"
UNBOUNDED: Final = Target(2**62)
"""The target `any`: more memory than any model needs."""
HOST_BYTES_PER_CARD: Final = 32 * 2**30
DRIVER_RESERVED_BYTES: Final = 512 * 2**20
MAX_CARDS: Final = 16
CARDS_MIB: Final = {
    "t4": 15_360,
    "rtx-3060": 12_288,
    "rtx-3090": 24_576,
    "rtx-4060-ti-16gb": 16_380,
    "rtx-4070": 12_282,
    "rtx-4080": 16_376,
    "rtx-4090": 24_564,
    "rtx-5090": 32_607,
    "l4": 23_034,
    "a10": 23_028,
    "a10g": 23_028,
    "v100-16gb": 16_384,
    "v100-32gb": 32_768,
    "rtx-a6000": 49_140,
    "rtx-6000-ada": 49_140,
    "l40s": 46_068,
    "a100-40gb": 40_960,
    "a100-80gb": 81_920,
    "h100-80gb": 81_559,
    "h200": 143_771,
    "b200": 183_359,
}
TARGET_PATTERN: Final = r"(?:[0-9]{1,2}x-?)?[A-Za-z0-9][A-Za-z0-9. -]{0,30}(?:\+[0-9][0-9.]*\s?[A-Za-z]{0,3})?"
_TARGET = re.compile(r"(?:(?P<count>[0-9]{1,2})x-?)?(?P<card>[^+]+?)(?:\+(?P<ram>.+))?")
_SIZED_CARD = re.compile(r"(?P<size>[0-9].*)-gpu")


@dataclass(frozen=True, slots=True)
class TargetParts:
    """The parts of a target: `count` GPUs `card`, and the size of the main memory `ram`, each as it was written in
    lower case. `card` is None for a machine without a GPU, and `ram` where it is not given."""

    count: int
    card: str | None
    ram: str | None


def parse_target(text: str) -> Target | None:
    """The memory of a target; None for `this-machine`, which the caller has to measure. Raises BadSetting."""
    normalized = text.strip().lower()
    if normalized == THIS_MACHINE:
        return None
    if normalized == ANY:
        return UNBOUNDED
    parts = split_target(text)
    card_bytes = _card_bytes(parts.card) if parts.card else None
    if card_bytes is None:
        return Target(parse_bytes(parts.ram or ""))
    ram = parse_bytes(parts.ram) if parts.ram else parts.count * HOST_BYTES_PER_CARD
    return Target(ram, (card_bytes - DRIVER_RESERVED_BYTES,) * parts.count)


def split_target(text: str) -> TargetParts:
    """The parts of a target other than `this-machine` and `any`. Raises BadSetting."""
    normalized = text.strip().lower()
    match = _TARGET.fullmatch(normalized)
    if match is None or _card_bytes(match["card"]) is None:
        if match is None or match["count"] or match["ram"] or not normalized[:1].isdigit():
            raise _unknown(text)
        return TargetParts(0, None, normalized)
    count = int(match["count"] or 1)
    if not 1 <= count <= MAX_CARDS:
        raise BadSetting(
            f"the target {text[:40]!r} has {count} GPUs, and 1 to {MAX_CARDS} are allowed", cure="correct the number"
        )
    return TargetParts(count, match["card"], match["ram"])


def _card_bytes(name: str) -> int | None:
    if name in CARDS_MIB:
        return CARDS_MIB[name] * 2**20
    sized = _SIZED_CARD.fullmatch(name)
    return parse_bytes(sized["size"]) if sized else None


def _unknown(text: str) -> BadSetting:
    return BadSetting(
        f"the target {text[:40]!r} is not a known machine",
        cure=f"use this-machine, any, a memory size such as 64GiB, a GPU such as 24GiB-gpu, or {', '.join(CARDS_MIB)}",
    )
