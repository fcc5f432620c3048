"""Quantities for people. A GiB is 2**30 bytes, a GB 10**9; Paddock writes binary units, as `ls -h` and llama.cpp do."""

from __future__ import annotations

import re

from paddock.errors import BadSetting

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)[bB]?")


def human_bytes(size: int) -> str:
    """`1536` as `1.5 KiB`."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit always returns")


def parse_bytes(text: str) -> int:
    """`24GiB`, `500MB`, `1.5G` or plain bytes, as bytes. `G` alone is GiB. Raises BadSetting."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSetting(f"{text[:40]!r} is not a size", cure="write bytes, or a number with KiB, MB, GiB and the like")
    number, prefix, binary = match.groups()
    decimal = text.strip().lower().endswith("b") and not binary and prefix
    base = 1000 if decimal else 1024
    power = " kmgtp".index(prefix.lower() or " ")
    return round(float(number) * float(base**power))
