"""Parse JSON that others wrote, with bounds on its size, depth, numbers and the count of its values.

The depth is known before anything is parsed, so that no text can exhaust the stack. By default nothing is accepted that
parsers differ in, since what one program checked could differ from what another one reads: an object has no key twice,
numbers are finite, integers fit in 64 bits, and texts hold neither NUL nor a lone surrogate.

A text takes up to 30 times its size once it is parsed: `max_bytes` bounds memory too.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from paddock.plain_text import one_line
from paddock.untrusted.content import UnusableContent

MAX_DEPTH: Final = 64
"""Lists and objects inside each other, unless a caller says otherwise."""
MAX_VALUES: Final = 500_000
"""Values in a document, unless a caller says otherwise. At most half of them may be lists and objects."""
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_MAX_DIGITS: Final = 400
"""Longer integers have no float, and Python takes quadratic time for them."""
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or one that is not closed, up to the end of the text: no byte is looked at twice."""
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b"[]{},")
_OPENING: Final = frozenset(b"[{")
_UNSAFE_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
_UNSAFE_ESCAPE: Final = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_KINDS: Final = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}
_Trail = tuple["_Trail | None", str | int]
"""The path of a value: the path of its parent, and its key or index there."""


class _Refused:
    """The place of a value in a parsed document that is refused for `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def parse_json(
    data: bytes | str,
    *,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    max_values: int = MAX_VALUES,
    strict: bool = True,
) -> object:
    """Parse a JSON document in UTF-8. Raises UnusableContent.

    With `strict=False`, what other programs write into their own files is accepted: a byte order mark; keys twice, of
    which the last one counts; NUL and lone surrogates in texts. Integers beyond 64 bits are floats then, and numbers
    that are not finite None.
    """
    content = data if isinstance(data, bytes) else data.encode(errors="surrogatepass")
    if len(content) > max_bytes:
        raise UnusableContent(f"it is larger than {max_bytes} bytes")
    _check_structure(content, max_depth=max_depth, max_values=max_values)
    try:
        text = content.decode("utf-8" if strict else "utf-8-sig")
        hooks = _StrictHooks() if strict else _LenientHooks()
        value = json.loads(
            text,
            object_pairs_hook=hooks.object,
            parse_constant=hooks.constant,
            parse_int=hooks.integer,
            parse_float=hooks.float,
        )
    except UnicodeDecodeError as error:
        raise UnusableContent(f"it is not UTF-8: byte {error.start} cannot be decoded") from None
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise UnusableContent(reason) from None
    except (RecursionError, OverflowError, MemoryError) as error:
        raise UnusableContent(f"it cannot be parsed ({type(error).__name__})") from None
    if hooks.refused or (strict and _UNSAFE_ESCAPE.search(text)):
        _check_values(value)
    return value


def parse_object(
    data: bytes | str,
    *,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    max_values: int = MAX_VALUES,
    strict: bool = True,
) -> dict[str, Any]:
    """As `parse_json`, for a document that is an object. Raises UnusableContent for any other."""
    value = parse_json(data, max_bytes=max_bytes, max_depth=max_depth, max_values=max_values, strict=strict)
    if not isinstance(value, dict):
        raise UnusableContent(f"an object was expected, and it holds {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """The kind of a parsed value, with its article: "a list"."""
    return _KINDS.get(type(value), "something else")


def _check_structure(content: bytes, *, max_depth: int, max_values: int) -> None:
    """Check how deep lists and objects are nested, and how many values there are, without parsing. Strings are
    recognised as the parser does it, up to the first error that it finds."""
    openings = content.count(b"[") + content.count(b"{")
    if openings <= max_depth and openings + content.count(b",") < max_values:
        return
    marks = _STRING.sub(b"", content).translate(None, _NO_MARKS)
    openings = marks.count(b"[") + marks.count(b"{")
    if openings > max_values // 2:
        raise UnusableContent(f"it has more than {max_values // 2} lists and objects")
    if openings + marks.count(b",") >= max_values:
        raise UnusableContent(f"it has more than {max_values} values")
    depth = 0
    for bracket in marks.translate(None, b","):
        depth += 1 if bracket in _OPENING else -1
        if depth > max_depth:
            raise UnusableContent(f"it is nested deeper than {max_depth} levels")


class _StrictHooks:
    """Callbacks of the parser. A value that is refused is replaced by its reason: only a search afterwards knows its
    path."""

    def __init__(self) -> None:
        self.refused = False

    def object(self, pairs: list[tuple[str, Any]]) -> Any:
        value = dict(pairs)
        if len(value) != len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            value[twice] = self._refuse(f"it has the key {printable_key(twice)!r} twice in one object")
        return value

    def constant(self, name: str) -> Any:
        return self._refuse(f"it has the number {name}, which is not JSON")

    def integer(self, digits: str) -> Any:
        number = int(digits) if len(digits) <= _MAX_DIGITS else _MAX_INTEGER + 1
        return number if _MIN_INTEGER <= number <= _MAX_INTEGER else self._refuse("it has an integer beyond 64 bits")

    def float(self, digits: str) -> Any:
        number = float(digits)
        return number if math.isfinite(number) else self._refuse("it has a number that is not finite")

    def _refuse(self, reason: str) -> _Refused:
        self.refused = True
        return _Refused(reason)


class _LenientHooks(_StrictHooks):
    def object(self, pairs: list[tuple[str, Any]]) -> Any:
        return dict(pairs)

    def constant(self, name: str) -> Any:  # noqa: ARG002 - each of them is None
        return None

    def integer(self, digits: str) -> Any:
        number = int(digits) if len(digits) <= _MAX_DIGITS else None
        if number is None or _MIN_INTEGER <= number <= _MAX_INTEGER:
            return number
        return self.float(digits)

    def float(self, digits: str) -> Any:
        number = float(digits)
        return number if math.isfinite(number) else None


def _check_values(root: Any) -> None:
    """Look for a value below `root` that is refused, without recursion."""
    pending: list[tuple[Any, _Trail | None]] = [(root, None)]
    while pending:
        value, trail = pending.pop()
        if problem := _problem(value):
            raise UnusableContent(problem, key=_path(trail))
        for key, item in _items(value):
            if isinstance(key, str) and _UNSAFE_TEXT.search(key):
                raise UnusableContent("it has a key with a NUL or a lone surrogate", key=_path(trail))
            pending.append((item, (trail, key)))


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _problem(item: Any) -> str | None:
    if isinstance(item, _Refused):
        return item.reason
    if isinstance(item, str) and _UNSAFE_TEXT.search(item):
        return "it has a text with a NUL or a lone surrogate"
    return None


def _path(trail: _Trail | None) -> str:
    parts = list[str]()
    while trail is not None:
        trail, key = trail
        parts.append(printable_key(str(key)))
    return ".".join(reversed(parts))


def printable_key(key: str) -> str:
    """The beginning of a key, as it is shown."""
    return one_line(key[:60])


def replace_unsafe(text: str) -> str:
    """A text that can be read again once it is written: without NUL and lone surrogates."""
    return _UNSAFE_TEXT.sub("\ufffd", text)
