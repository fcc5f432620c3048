from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.model.names import Revision
from paddock.store.history import Promotion, before
from tests.support.stores import A, B, C

revisions = st.text("0123456789abcdef", min_size=40, max_size=40).map(Revision)
promotions = st.builds(
    Promotion,
    revision=revisions,
    previous=st.none() | revisions,
    at=st.datetimes(timezones=st.just(UTC)),
    reason=st.text(),
    by=st.none() | st.text(),
    rollback=st.booleans(),
)


@given(promotions)
def test_a_promotion_survives_its_line(promotion: Promotion) -> None:
    assert Promotion.from_json(json.loads(json.dumps(promotion.to_json()))) == promotion


@pytest.mark.parametrize("value", [None, [], {}, {"revision": "main"}, {"revision": A, "previous": "../x"}])
def test_what_is_no_promotion_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        Promotion.from_json(value)


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("", ""),
        ("a", ""),
        ("ab", "a"),
        ("aba", "ba"),
        ("abc", "ba"),
        ("abc<b", "a"),
        ("abc<b<a", ""),
        ("abc<bc", "ba"),
        ("ab<ca", "cba"),
    ],
)
def test_a_rollback_goes_back_along_the_promotions(moves: str, expected: str) -> None:
    """`<` before a letter is a rollback to it."""
    known = {"a": A, "b": B, "c": C}
    lines = [
        Promotion(known[letter], None, datetime.now(UTC), "", None, rollback=moves[:at].endswith("<"))
        for at, letter in enumerate(moves)
        if letter != "<"
    ]
    assert before(lines) == [known[letter] for letter in expected]
