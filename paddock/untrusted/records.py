"""Compare a dataclass that was made from a document with the types of its fields.

A dataclass takes whatever it is given. One that was made of a document that others wrote is checked once, where it is
read, and everything behind that may rely on its types. Numbers are finite, and no larger than 64 bits.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import check_time
from paddock.untrusted.json_text import kind_of

_Record = TypeVar("_Record")
_MAX_NUMBER: Final = 2**63
_MAX_DEPTH: Final = 64
_UNIONS: Final = (Union, types.UnionType)
_SEQUENCES: Final = (tuple, list, Sequence, frozenset, set)


def check_record(record: _Record) -> _Record:
    """Return a dataclass unchanged. Raises UnusableContent where a field, at any depth, has another type than its class
    says, and TypeError for an annotation that is not known here."""
    _check_fields(record, "", _MAX_DEPTH)
    return record


def _check_fields(record: Any, key: str, depth: int) -> None:
    if depth == 0:
        raise UnusableContent(f"it is nested deeper than {_MAX_DEPTH} levels", key=key)
    kind: Any = type(record)
    for name, hint in _hints(kind).items():
        _check(getattr(record, name), hint, f"{key}.{name}" if key else name, depth)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check(value: object, hint: Any, key: str, depth: int) -> None:
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        _check(value, arguments[0], key, depth)
    elif hint is Any or hint is object:
        _check_plain(value, key, depth)
    elif origin in _UNIONS:
        _check_union(value, arguments, key, depth)
    elif origin is Literal:
        _require(value in arguments, value, key)
    elif origin in _SEQUENCES:
        _check_sequence(value, origin, arguments, key, depth)
    elif origin in {dict, Mapping}:
        _require(isinstance(value, Mapping), value, key)
        for name, item in value.items() if isinstance(value, Mapping) else ():
            _check(name, arguments[0], key, depth - 1)
            _check(item, arguments[1], f"{key}.{name}", depth - 1)
    elif dataclasses.is_dataclass(hint):
        _require(isinstance(value, hint), value, key)  # type: ignore[arg-type]  # a class, and no instance of one
        _check_fields(value, key, depth - 1)
    elif isinstance(hint, type):
        _check_class(value, hint, key)
    else:
        raise TypeError(f"{key} has the annotation {hint}, which is not known")


def _check_class(value: object, hint: type, key: str) -> None:
    if hint in {int, float}:
        _require(isinstance(value, int | float) and not isinstance(value, bool), value, key)
        _check_number(value, key)
        _require(hint is float or value == int(value), value, key)  # type: ignore[call-overload]  # a number
    else:
        _require(isinstance(value, hint), value, key)
        if isinstance(value, datetime):
            check_time(value, key=key)


def _check_number(value: object, key: str) -> None:
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _MAX_NUMBER):
        raise UnusableContent("a finite number within 64 bits was expected", key=key)


def _check_union(value: object, arguments: Sequence[Any], key: str, depth: int) -> None:
    problems = []
    for hint in arguments:
        try:
            return _check(value, hint, key, depth)
        except UnusableContent as error:
            problems.append(error)
    raise problems[0]


def _check_sequence(value: object, origin: Any, arguments: Sequence[Any], key: str, depth: int) -> None:
    _require(isinstance(value, origin) and not isinstance(value, str), value, key)
    items: Sequence[Any] = tuple(value)  # type: ignore[arg-type]  # a sequence, as was just found
    hints = [arguments[0]] * len(items) if len(arguments) == 1 or arguments[-1] is Ellipsis else list(arguments)
    if len(hints) != len(items):
        raise UnusableContent(f"{len(hints)} values were expected, and it has {len(items)}", key=key)
    for number, (item, hint) in enumerate(zip(items, hints, strict=True)):
        _check(item, hint, f"{key}.{number}", depth - 1)


def _check_plain(value: object, key: str, depth: int) -> None:
    """Check a value of any type: its numbers."""
    if isinstance(value, int | float):
        _check_number(value, key)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check_plain(item, f"{key}.{name}", depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, key, depth - 1)


def _require(fits: bool, value: object, key: str) -> None:
    if not fits:
        raise UnusableContent(f"it holds {kind_of(value)}, and something else was expected", key=key)
