"""Dataclasses made of documents that others wrote: a field of another type than its class says is found once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NewType

import pytest

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import count_field, parse_time, text_field
from paddock.untrusted.records import check_record

Name = NewType("Name", str)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    size: int
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    name: Name
    inners: tuple[Inner, ...]
    pair: tuple[int, str]
    colour: Colour
    kind: Literal["a", "b"]
    at: datetime
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    anything: Any = None
    flag: bool = False


GOOD = Outer(
    Name("n"),
    (Inner(1, 2.5), Inner(3, 4)),
    (1, "x"),
    Colour.RED,
    "a",
    datetime.now(UTC),
    {"i": Inner(0)},
    {"deep": [1.5]},
)
BAD: dict[str, dict[str, Any]] = {
    "name: it holds a number": {"name": 1},
    "inners.1.size: it holds a text": {"inners": (Inner(1), Inner("2"))},  # type: ignore[arg-type]
    "inners: it holds a text": {"inners": "text"},
    "inners.0: it holds an object": {"inners": ({"size": 1},)},
    "inners.0.share: it holds a list": {"inners": (Inner(1, []),)},  # type: ignore[arg-type]
    "inners.0.share: a finite number": {"inners": (Inner(1, float("inf")),)},
    "pair: 2 values were expected, and it has 1": {"pair": (1,)},
    "pair.0: it holds a truth value": {"pair": (True, "x")},
    "pair.0: a finite number": {"pair": (10**30, "x")},
    "colour: it holds a text": {"colour": "red"},
    "kind: it holds a text": {"kind": "c"},
    "kind: it holds a list": {"kind": ["a"]},
    "at: a time with a time zone": {"at": datetime(1, 1, 1, tzinfo=UTC)},
    "by_name: it holds a list": {"by_name": []},
    "by_name.i.size: it holds null": {"by_name": {"i": Inner(None)}},  # type: ignore[arg-type]
    "anything.deep: a finite number": {"anything": {"deep": [float("nan")]}},
    "flag: it holds a number": {"flag": 1},
}


def test_a_record_with_the_types_of_its_class_is_returned_unchanged() -> None:
    assert check_record(GOOD) is GOOD
    whole = replace(GOOD, inners=(Inner(2.0),))  # type: ignore[arg-type]  # JSON has one kind of number
    assert check_record(whole) is whole


@pytest.mark.parametrize("message", BAD)
def test_a_field_of_another_type_is_refused_by_its_place(message: str) -> None:
    with pytest.raises(UnusableContent) as refused:
        check_record(replace(GOOD, **BAD[message]))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"],
)
def test_a_time_has_a_time_zone_and_a_year_that_can_be_added_to(text: str) -> None:
    with pytest.raises(UnusableContent, match="a time"):
        parse_time(text)
    assert parse_time("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)


def test_counts_and_texts_are_bounded() -> None:
    assert count_field({"n": 5}, "n") == 5
    for value in (-1, 2**61, True, 1.5, "1", None):
        with pytest.raises(UnusableContent, match=r"^n: "):
            count_field({"n": value}, "n")
    assert text_field({"t": "x"}, "t") == "x"
    for text in ("x" * 5000, 1, None, ["x"]):
        with pytest.raises(UnusableContent, match=r"^t: "):
            text_field({"t": text}, "t")
