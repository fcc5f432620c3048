"""Typed values out of a parsed document.

Each function returns the value, or raises UnusableContent, which is a ValueError. Counts and times are bounded: larger
ones overflow where they are added to a clock's time, or converted for the system.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import kind_of

MAX_COUNT: Final = 2**60
"""Bytes, tokens, requests: 1 EiB. A sum of a few is within 64 bits still."""
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2200


def text_field(value: Mapping[str, Any], name: str, *, max_length: int = 4096) -> str:
    """A text of at most `max_length` characters."""
    found = value.get(name)
    if not isinstance(found, str):
        raise _unexpected(name, found, "a text")
    if len(found) > max_length:
        raise UnusableContent(f"a text of at most {max_length} characters was expected, not of {len(found)}", key=name)
    return found


def count_field(value: Mapping[str, Any], name: str, *, at_most: int = MAX_COUNT) -> int:
    """A whole number from 0 to `at_most`."""
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int):
        raise _unexpected(name, found, "a whole number")
    if not 0 <= found <= at_most:
        raise UnusableContent(f"a number from 0 to {at_most} was expected, not {found}", key=name)
    return found


def time_field(value: Mapping[str, Any], name: str) -> datetime:
    """A time with a time zone, in UTC."""
    found = value.get(name)
    if not isinstance(found, str):
        raise _unexpected(name, found, "a time")
    return parse_time(found, key=name)


def parse_time(text: str, *, key: str = "") -> datetime:
    """Parse a time of ISO 8601 with a time zone. The result is in UTC, and bounded as `check_time` says."""
    try:
        time = datetime.fromisoformat(text[:64])
    except ValueError:
        raise UnusableContent(f"a time was expected, not {text[:64]!r}", key=key) from None
    return check_time(time, key=key).astimezone(UTC)


def check_time(time: datetime, *, key: str = "") -> datetime:
    """Return a time unchanged, unless it has no time zone, or lies where adding to it overflows."""
    if time.tzinfo is None or not _FIRST_YEAR <= time.year < _LAST_YEAR:
        raise UnusableContent(
            f"a time with a time zone from {_FIRST_YEAR} to {_LAST_YEAR} was expected, not {time.isoformat()}", key=key
        )
    return time


def _unexpected(name: str, found: object, expected: str) -> UnusableContent:
    what = "nothing" if found is None else kind_of(found)
    return UnusableContent(f"{expected} was expected, and it holds {what}", key=name)
