"""Quantities for people. A GiB is 2**30 bytes, a GB 10**9; Paddock writes binary units, as `ls -h` and llama.cpp do."""

from __future__ import annotations

import re
from fractions import Fraction

from paddock.errors import BadSetting

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGTP])(i?))?B?", re.IGNORECASE | re.ASCII)


def human_bytes(size: int) -> str:
    """`1536` as `1.5 KiB`."""
    value = float(size)
    for unit in _UNITS:
        # 1023.96 would be shown as 1024.0: it is 1.0 of the next
        if round(value, 1) < 1024 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit always returns")


def human_time(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def parse_bytes(text: str) -> int:
    """`24GiB`, `500MB`, `1.5G` or plain bytes, as bytes; a part of a byte is dropped, and case does
    not matter. `G` alone is GiB. Raises BadSetting."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSetting(f"{text[:40]!r} is not a size", cure="write bytes, or a number with KiB, MB, GiB and the like")
    number, prefix, binary = match.groups()
    decimal = text.strip().lower().endswith("b") and not binary
    power = " kmgtp".index((prefix or " ").lower())
    return int(Fraction(number) * (1000 if decimal else 1024) ** power)
