"""Typed values out of a parsed document.

Each function returns the value, or raises UnusableContent, which is a ValueError. Counts and times are bounded: larger
ones overflow where they are added to a clock's time, or converted for the system.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeVar

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import kind_of

MAX_COUNT: Final = 2**60
"""Bytes, tokens, requests: 1 EiB. A sum of a few is within 64 bits still."""
_Item = TypeVar("_Item")
_Choice = TypeVar("_Choice", bound=Enum)
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


def text_or_none(value: Mapping[str, Any], name: str, *, max_length: int = 4096) -> str | None:
    """As `text_field`, or None for a null. A key that is missing is refused."""
    if name in value and value[name] is None:
        return None
    return text_field(value, name, max_length=max_length)


def choice_field(value: Mapping[str, Any], name: str, choices: type[_Choice]) -> _Choice:
    """A member of an enumeration of texts."""
    found = text_field(value, name)
    try:
        return choices(found)
    except ValueError:
        expected = ", ".join(str(choice.value) for choice in choices)
        raise UnusableContent(f"one of {expected} was expected, not {found[:40]!r}", key=name) from None


def list_field(value: Mapping[str, Any], name: str, read: Callable[[Any], _Item], *, at_most: int) -> tuple[_Item, ...]:
    """A list of at most `at_most` items, each of which `read` makes of its value; it raises UnusableContent too."""
    found = value.get(name)
    if not isinstance(found, list):
        raise _unexpected(name, found, "a list")
    if len(found) > at_most:
        raise UnusableContent(f"a list of at most {at_most} items was expected, not of {len(found)}", key=name)
    items = []
    for number, item in enumerate(found):
        try:
            items.append(read(item))
        except UnusableContent as error:
            key = ".".join(filter(None, (name, str(number), error.key)))
            raise UnusableContent(error.reason, key=key) from None
    return tuple(items)


def object_with(value: object, *, keys: Collection[str] | None = None) -> dict[str, Any]:
    """An object, which has no other keys than `keys`, unless that is None."""
    if not isinstance(value, dict):
        raise UnusableContent(f"an object was expected, and it holds {kind_of(value)}")
    for key in value if keys is not None else ():
        if key not in (keys or ()):
            raise UnusableContent("no such key is known", key=key)
    return value


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
