"""The Pareto front has what no other choice beats, whatever the figures, and assumes nothing for a missing one."""

from __future__ import annotations

from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st

from paddock.measure.pareto import CRITERIA, Figures, Place, pareto_front

figure = st.none() | st.integers(0, 3).map(float) | st.floats()
"""Few different values, so that choices are equal or better in a part; and any number, also NaN and infinity."""
choices = st.lists(st.builds(Figures, figure, figure, figure, figure), max_size=8)


def beats(one: Figures, other: Figures, criteria: tuple[str, ...]) -> bool:
    """Whether a choice is at least as good in every criterion, and better in one."""
    pairs = {
        "quality": (one.kl_mean, other.kl_mean),
        "speed": (other.tok_per_s, one.tok_per_s),
        "memory": (one.memory_bytes, other.memory_bytes),
        "price": (one.price, other.price),
    }
    known = [
        (left, right) for name in criteria for left, right in [pairs[name]] if left is not None and right is not None
    ]
    return all(left <= right for left, right in known) and any(left < right for left, right in known)


@given(choices)
def test_none_on_the_front_is_beaten_and_each_other_one_is_by_one_of_the_front(some: list[Figures]) -> None:
    found = pareto_front(some)
    compared = [number for number, place in enumerate(found.places) if place.on_front is not None]
    front = [number for number in compared if found.places[number].on_front]
    assert bool(front) == bool(compared)
    for number in compared:
        beaten_by = [other for other in compared if beats(some[other], some[number], found.criteria)]
        assert bool(beaten_by) == (number not in front)
        assert found.places[number].dominated_by == tuple(other for other in beaten_by if other in front)
        assert found.places[number].dominated_by or number in front


@given(choices)
def test_only_a_choice_that_lacks_a_figure_is_not_compared_and_says_which(some: list[Figures]) -> None:
    found = pareto_front(some)
    assert set(found.criteria) == {name for name in CRITERIA for one in some if one.costs()[name] is not None}
    for one, place in zip(some, found.places, strict=True):
        lacking = tuple(name for name in found.criteria or CRITERIA if one.costs()[name] is None)
        assert place.missing == lacking
        assert (place.on_front is None) == bool(lacking)


@given(choices, st.randoms(use_true_random=False))
def test_the_order_of_the_choices_changes_nothing(some: list[Figures], random: object) -> None:
    order = list(range(len(some)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis' own Random
    places, shuffled = pareto_front(some).places, pareto_front([some[number] for number in order]).places
    for place, number in zip(shuffled, order, strict=True):
        assert (place.on_front, place.missing) == (places[number].on_front, places[number].missing)
        assert {order[one] for one in place.dominated_by} == set(places[number].dominated_by)


def test_a_figure_that_nobody_has_does_not_count() -> None:
    fast, small = Figures(None, 200, 4e9, None), Figures(None, 100, 2e9, None)
    slow = Figures(None, 90, 2e9, None)
    found = pareto_front([fast, small, slow])
    assert found.criteria == ("speed", "memory")
    assert found.places == (Place(True), Place(True), Place(False, dominated_by=(1,)))


def test_a_choice_without_a_price_is_not_compared_where_others_have_one() -> None:
    found = pareto_front([Figures(0.1, 100, 1e9, 2.0), Figures(0.2, 50, 2e9, None), Figures(nan, inf, 2e9, 1.0)])
    assert found.places[1:] == (Place(None, missing=("price",)), Place(None, missing=("quality", "speed")))


def test_equal_choices_are_both_on_the_front() -> None:
    one = Figures(0.1, 100, 1e9, 2.0)
    assert pareto_front([one, one]).places == (Place(True), Place(True))


def test_of_nothing_nothing_is_on_the_front() -> None:
    assert pareto_front([]).places == ()
    assert pareto_front([Figures(None, None, None, None)]).places == (Place(None, missing=CRITERIA),)
