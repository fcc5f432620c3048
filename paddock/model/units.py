"""Format and parse sizes, durations and counts.

Sizes are shown in binary units (1 GiB = 2**30 bytes), as llama.cpp does.
"""

from __future__ import annotations

import re

from paddock.errors import BadSetting

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SHARE = r"(?a)([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%"
_SIZE = r"(?ai)([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGTP])(i?))?B?"


def human_bytes(size: int) -> str:
    """Format a size in bytes: 1536 as `1.5 KiB`."""
    value = float(size)
    for unit in _UNITS:
        # 1023.96 would be rounded to 1024.0, so use 1.0 of the next unit
        if round(value, 1) < 1024 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit always returns")


def human_time(seconds: float) -> str:
    """Format a duration: `42 s`, `3 min 20 s`, `5 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 snapshot`, `2 snapshots`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def parse_bytes(text: str) -> int:
    """Parse a size such as `24GiB`, `500MB`, `1.5G` or plain bytes to bytes, ignoring case and rounding down.

    `G` alone means GiB. Raises BadSetting.
    """
    from fractions import Fraction

    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise BadSetting(
            f"{text[:40]!r} is not a size", cure="use a number of bytes, or a number with a unit such as KiB, MB or GiB"
        )
    number, prefix, binary = match.groups()
    decimal = text.strip().lower().endswith("b") and not binary
    power = " kmgtp".index((prefix or " ").lower())
    return int(Fraction(number) * (1000 if decimal else 1024) ** power)


def parse_budget(text: str, *, of_bytes: int) -> int:
    """Parse a size, or a share of `of_bytes` such as `80%`, to bytes, rounding down. Raises BadSetting."""
    from fractions import Fraction

    share = re.fullmatch(_SHARE, text.strip())
    if share is None and "%" not in text:
        return parse_bytes(text)
    if share is None or Fraction(share[1]) > 100:
        raise BadSetting(f"{text[:40]!r} is not a share of a disk", cure="use a percentage from 0% to 100%, or a size")
    return int(of_bytes * Fraction(share[1]) / 100)
