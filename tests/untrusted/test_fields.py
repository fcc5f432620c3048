"""Typed values out of a document: another type, a value out of bounds or an unknown key is named by its place."""

from __future__ import annotations

from typing import Any

import pytest

from paddock.model.finding import Severity
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import choice_field, count_field, list_field, object_with, text_field, text_or_none


def item(value: object) -> int:
    return count_field(object_with(value, keys=("size",)), "size")


def test_values_are_returned_as_they_are() -> None:
    assert text_or_none({"name": None}, "name") is None
    assert text_or_none({"name": "x"}, "name") == "x"
    assert choice_field({"severity": "warn"}, "severity", Severity) is Severity.WARN
    assert list_field({"files": [{"size": 1}, {"size": 2}]}, "files", item, at_most=2) == (1, 2)
    assert object_with({"any": 1}) == {"any": 1}


@pytest.mark.parametrize(
    ("document", "key", "reason"),
    [
        ({"files": None}, "files", "a list was expected, and it holds nothing"),
        ({"files": "all"}, "files", "a list was expected, and it holds a text"),
        ({"files": [{"size": 1}] * 3}, "files", "at most 2 items"),
        ({"files": ["x"]}, "files.0", "an object was expected"),
        ({"files": [{"size": 1}, {"size": -1}]}, "files.1.size", "a number from 0"),
        ({"files": [{"size": True}]}, "files.0.size", "a whole number was expected"),
        ({"files": [{"size": 1, "link": "/etc"}]}, "files.0.link", "no such key is known"),
    ],
    ids=["missing", "no list", "too many", "no object", "out of bounds", "another type", "an unknown key"],
)
def test_an_item_that_cannot_be_used_is_named_by_its_place(document: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(UnusableContent, match=reason) as caught:
        list_field(document, "files", item, at_most=2)
    assert caught.value.key == key


@pytest.mark.parametrize("value", ["fatal", 7, None], ids=repr)
def test_another_value_than_those_of_the_enumeration_is_refused(value: object) -> None:
    with pytest.raises(UnusableContent) as caught:
        choice_field({"severity": value}, "severity", Severity)
    assert caught.value.key == "severity"


def test_a_text_that_may_be_null_may_not_be_missing() -> None:
    with pytest.raises(UnusableContent):
        text_or_none({}, "name")
    with pytest.raises(UnusableContent):
        text_field({"name": None}, "name")
