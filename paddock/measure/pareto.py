"""Find the Pareto front: the choices for which no other choice is at least as good in everything and better in one.

There are four criteria, each of which has a better direction:

    quality   mean KL divergence from the reference, in nats; lower is better
    speed     tokens per second of one stream; higher is better
    memory    bytes that the loaded model takes; lower is better
    price     of a million tokens of one stream; lower is better

A *criterion counts* if at least one of the choices has its figure, and a choice is *compared* only if it has every
figure that counts: nothing is assumed in the place of a figure that is missing, since with it the choice might be the
best one or the worst. So one measurement decides for all whether a criterion counts, and each of the other choices
names what it lacks. A figure that is not finite counts as missing. Equal choices do not dominate each other.

Of the choices that are compared, none on the front is dominated, and each other one is dominated by one of the front:
domination has no cycles, so that whatever dominates it is on the front, or is dominated by one that dominates both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal, get_args

Criterion = Literal["quality", "speed", "memory", "price"]
CRITERIA: Final[tuple[Criterion, ...]] = get_args(Criterion)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a choice; None for what was not measured."""

    kl_mean: float | None
    tok_per_s: float | None
    memory_bytes: float | None
    price: float | None

    def costs(self) -> dict[Criterion, float | None]:
        """Each figure, turned so that lower is better."""
        figures = (self.kl_mean, None if self.tok_per_s is None else -self.tok_per_s, self.memory_bytes, self.price)
        finite = (figure if figure is not None and isfinite(figure) else None for figure in figures)
        return dict(zip(CRITERIA, finite, strict=True))


@dataclass(frozen=True, slots=True)
class Place:
    """A choice's place. `on_front` is None for one that is not compared, which lacks the figures of `missing`.
    `dominated_by` has the numbers of the choices of the front that dominate it, from 0."""

    on_front: bool | None
    dominated_by: tuple[int, ...] = ()
    missing: tuple[Criterion, ...] = ()


@dataclass(frozen=True, slots=True)
class Front:
    """The criteria that count, and the place of each choice, in the order of the choices."""

    criteria: tuple[Criterion, ...]
    places: tuple[Place, ...]


def pareto_front(choices: Sequence[Figures]) -> Front:
    """Find the front of some choices."""
    costs = [choice.costs() for choice in choices]
    criteria = tuple(name for name in CRITERIA if any(cost[name] is not None for cost in costs))
    points: dict[int, tuple[float, ...]] = {}
    for number, cost in enumerate(costs):
        values = [cost[name] for name in criteria]
        point = tuple(value for value in values if value is not None)
        if criteria and len(point) == len(criteria):
            points[number] = point
    front = [
        number for number, point in points.items() if not any(_dominates(other, point) for other in points.values())
    ]
    places = []
    for number, cost in enumerate(costs):
        if number not in points:
            missing = tuple(name for name in criteria or CRITERIA if cost[name] is None)
            places.append(Place(None, missing=missing))
        else:
            dominating = tuple(other for other in front if _dominates(points[other], points[number]))
            places.append(Place(not dominating, dominating))
    return Front(criteria, tuple(places))


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(left <= right for left, right in zip(one, other, strict=True)) and tuple(one) != tuple(other)
