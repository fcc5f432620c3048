"""Draw the quality of variants over their speed, and which of them no other one beats in both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Literal

from paddock.measure.pareto import Figures, pareto_front
from paddock.measure.pictures.canvas import (
    AT_THE_EDGE,
    BLUE,
    GREEN,
    ORANGE,
    above_zero,
    around,
    draw,
    kl_axis,
    marker,
    number,
    point,
    unreliable_entry,
)
from paddock.measure.pictures.labels import label_points
from paddock.measure.pictures.picture import Picture
from paddock.model.units import human_bytes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

NAME = "pareto"
_HEIGHT = 310
_LEAST_POINT, _MOST_POINT = 5.0, 17.0
Weight = Literal["price", "size"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variant that can be chosen: its speed, its KL divergence from the reference, and what it costs.

    None for what was not measured. `price_per_million` is that of a million decoded tokens, and `is_subject` is for
    the one that the picture is about.
    """

    label: str
    size_bytes: int
    decode_tok_per_s: float | None
    kl: float | None
    price_per_million: float | None = None
    reliable: bool = True
    is_subject: bool = False


def draw_pareto(choices: Sequence[Choice], *, where: str, title: str) -> Picture | None:
    """Draw the variants whose speed and quality are known, and the front: those of which no other one is as fast and as
    good, and better in one. One that is not reliable is not compared. None where there is no variant to draw.

    The area of a point is in proportion to the price, where all of them have one, else to the size. `where` names the
    machine and the reference.
    """
    lowest = above_zero([one.kl for one in choices if one.kl is not None and isfinite(one.kl)])
    drawn = [
        (one, one.decode_tok_per_s, max(lowest, one.kl))
        for one in choices
        if one.decode_tok_per_s is not None and one.kl is not None and isfinite(one.decode_tok_per_s + one.kl)
    ]
    if not drawn:
        return None
    missing = [one.label for one in choices if not any(one is other for other, _, _ in drawn)]
    front = _front([one for one, _, _ in drawn])
    weighs: Weight = "price" if all(one.price_per_million for one, _, _ in drawn) else "size"
    weights = [float(one.price_per_million or 0) if weighs == "price" else float(one.size_bytes) for one, _, _ in drawn]
    widths = [_MOST_POINT * sqrt(weight / max(weights)) if max(weights) else _LEAST_POINT for weight in weights]

    def paint(figure: Figure) -> Sequence[Artist]:
        axes = figure.subplots()
        around(axes, [speed for _, speed, _ in drawn])
        kl_axis(axes, [kl for _, _, kl in drawn])
        line = sorted((speed, kl) for one, speed, kl in drawn if one.label in front)
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=GREEN, linestyle="--", zorder=2)
        for (one, speed, kl), width in zip(drawn, widths, strict=True):
            point(axes, speed, kl, colour=_colour(one, front), reliable=one.reliable, size=max(_LEAST_POINT, width))
        label_points(
            axes,
            [(speed, kl, one.label) for one, speed, kl in drawn],
            size=(590, _HEIGHT - 45),
            radii=[max(_LEAST_POINT, width) * 0.75 for width in widths],
        )
        axes.set_xlabel("decode, tokens/s")
        return _entries([one for one, _, _ in drawn], front)

    area = "price of a million tokens" if weighs == "price" else "size"
    return draw(
        NAME,
        paint,
        title=title,
        alt="; ".join(_sentence(one, front) for one, _, _ in drawn) + ".",
        notes=[
            where,
            f"To the right is faster, below is better. Area of a point: {area}.",
            *([] if front else ["No front is drawn, since no result is reliable."]),
            *([AT_THE_EDGE] if any(one.kl == 0 for one, _, _ in drawn) else []),
            *([f"Not drawn, since not measured: {', '.join(missing)}."] if missing else []),
        ],
        height=_HEIGHT,
    )


def _front(drawn: Sequence[Choice]) -> frozenset[str]:
    """The labels of the front's variants."""
    reliable = [one for one in drawn if one.reliable]
    found = pareto_front([Figures(one.kl, one.decode_tok_per_s, None, None) for one in reliable])
    return frozenset(one.label for one, place in zip(reliable, found.places, strict=True) if place.on_front)


def _colour(one: Choice, front: Collection[str]) -> str:
    return ORANGE if one.is_subject else GREEN if one.label in front else BLUE


def _entries(drawn: Sequence[Choice], front: Collection[str]) -> list[Artist]:
    entries = [marker("this variant", ORANGE, style="none")] if any(one.is_subject for one in drawn) else []
    if front:
        entries.append(marker("front: none is faster and better", GREEN, style="--"))
    if any(one.label not in front and not one.is_subject for one in drawn):
        entries.append(marker("others", BLUE, style="none"))
    return entries if all(one.reliable for one in drawn) else [*entries, unreliable_entry()]


def _sentence(one: Choice, front: Collection[str]) -> str:
    figures = f"{number(one.decode_tok_per_s or 0)} tokens/s, KL divergence {number(one.kl or 0)}"
    marks = [f"{number(one.price_per_million)} a million tokens"] if one.price_per_million else []
    marks += ["on the front"] if one.label in front else []
    marks += [] if one.reliable else ["not reliable"]
    return ", ".join([f"{one.label}, {human_bytes(one.size_bytes)}: {figures}", *marks])
