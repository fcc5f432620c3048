"""Parse JSON from clients, with bounds on its size, depth and values.

Beyond what JSON itself requires, an object has no key twice, numbers are finite and integers fit in 64 bits, and texts
hold no NUL and no lone surrogate: parsers differ in what they make of these, so what was checked could differ from what
the engine reads.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from paddock.plain_text import one_line
from paddock.serving.refusal import bad_request

MAX_DEPTH: Final = 100
"""Lists and objects inside each other."""
_MAX_CONTAINERS: Final = 250_000
_MAX_VALUES: Final = 500_000
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_UNSAFE_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
_Trail = tuple["_Trail | None", str | int]
"""The path of a value: the path of its parent, and its key or index there."""


class InvalidJson(ValueError):
    """JSON that was not accepted. `path` names the value, with dots: `messages.0.content`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def parse_body(content: bytes) -> dict[str, Any]:
    """Parse a request's body, a JSON object in UTF-8. Raises RequestRefused."""
    try:
        value = parse_json(content.decode())
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start} cannot be decoded") from None
    except InvalidJson as error:
        raise bad_request(f"the body {error}", param=error.path or None) from None
    if not isinstance(value, dict):
        raise bad_request("the body is not a JSON object")
    return value


def parse_json(text: str) -> Any:
    """Parse JSON. Raises InvalidJson, whose message continues a sentence that begins with the text's name."""
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise InvalidJson(f"has more than {_MAX_CONTAINERS} lists and objects")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidJson(f"is nested deeper than {MAX_DEPTH} levels") from None
    except InvalidJson:
        raise
    except json.JSONDecodeError as error:
        raise InvalidJson(f"is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise InvalidJson("has an integer beyond 64 bits") from None
    _check_values(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise InvalidJson(f"has the key {_printable(twice)!r} twice in one object", _printable(twice))
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJson(f"has the number {name}, which is not JSON")


def _check_values(root: Any) -> None:
    """Check every value below `root`, without recursion."""
    pending: list[tuple[Any, int, _Trail | None]] = [(root, 1, None)]
    count = 0
    while pending:
        value, depth, trail = pending.pop()
        for key, item in _items(value):
            count += 1
            if isinstance(item, dict | list):
                if depth >= MAX_DEPTH:
                    raise InvalidJson(f"is nested deeper than {MAX_DEPTH} levels", _path((trail, key)))
                pending.append((item, depth + 1, (trail, key)))
            elif problem := _problem(item):
                raise InvalidJson(problem, _path((trail, key)))
            if isinstance(key, str) and _UNSAFE_TEXT.search(key):
                raise InvalidJson("has a key with a NUL or a lone surrogate", _path(trail))
        if count > _MAX_VALUES:
            raise InvalidJson(f"has more than {_MAX_VALUES} values")


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)
    elif problem := _problem(value):
        raise InvalidJson(problem)


def _problem(item: Any) -> str | None:
    if isinstance(item, str):
        return "has a text with a NUL or a lone surrogate" if _UNSAFE_TEXT.search(item) else None
    if isinstance(item, float):
        return None if math.isfinite(item) else "has a number that is not finite"
    if isinstance(item, int):
        return None if _MIN_INTEGER <= item <= _MAX_INTEGER else "has an integer beyond 64 bits"
    return None


def _path(trail: _Trail | None) -> str:
    parts = list[str]()
    while trail is not None:
        trail, key = trail
        parts.append(_printable(str(key)))
    return ".".join(reversed(parts))


def _printable(key: str) -> str:
    return one_line(key[:60])
