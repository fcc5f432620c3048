"""Place the labels of points so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from paddock.measure.pictures.canvas import INK, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHARACTER, _LINE = 6.9, 14.0
"""The size of a character, in pixels."""
_PLACES: Final = (
    (9, 0, "left"),
    (-9, 0, "right"),
    (0, 14, "center"),
    (0, -14, "center"),
    (8, 12, "left"),
    (8, -12, "left"),
)
"""Offsets from the point in pixels, and the alignment, in the order in which they are tried."""
_POINTS: Final = 0.72
"""Typographic points in a pixel."""
_Box = tuple[float, float, float, float]


def label_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], *, size: tuple[float, float], radii: Sequence[float]
) -> None:
    """Write the text of each point (x, y, text) beside it. The limits and scales of the axes are set already; `size`
    is about that of the axes in pixels, and `radii` those of the points."""
    to_axes = axes.transScale + axes.transLimits
    places = (to_axes.transform((x, y)) for x, y, _ in points)
    centres = [(float(x) * size[0], float(y) * size[1]) for x, y in places]
    taken: list[_Box] = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    for (x, y, text), centre, radius in zip(points, centres, radii, strict=True):
        label = shown(text, 28)
        options = [(_box(centre, label, _moved(place, radius)), _moved(place, radius), place[2]) for place in _PLACES]
        box, offset, align = min(options, key=lambda option: _overlap(option[0], taken, size))
        taken.append(box)
        axes.annotate(
            label,
            (x, y),
            xytext=(offset[0] * _POINTS, offset[1] * _POINTS),
            textcoords="offset points",
            ha=align,
            va="center",
            color=INK,
            zorder=6,
        )


def _moved(place: tuple[int, int, str], radius: float) -> tuple[float, float]:
    further = max(0.0, radius - 4)
    x, y, _ = place
    return x + further * (x > 0) - further * (x < 0), y + further * (y > 0) - further * (y < 0)


def _box(centre: tuple[float, float], label: str, offset: tuple[float, float]) -> _Box:
    width = len(label) * _CHARACTER
    x, y = centre[0] + offset[0], centre[1] + offset[1]
    left = x if offset[0] > 0 else x - width if offset[0] < 0 else x - width / 2
    return left, y - _LINE / 2, left + width, y + _LINE / 2


def _overlap(box: _Box, taken: Sequence[_Box], size: tuple[float, float]) -> float:
    """The area of a box, in square pixels, that others cover or that is outside of the axes; the latter counts more."""
    left, bottom, right, top = box
    covered = sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(top, other[3]) - max(bottom, other[1]))
        for other in taken
    )
    inside = max(0.0, min(right, size[0]) - max(left, 0)) * max(0.0, min(top, size[1]) - max(bottom, 0))
    return covered + 3 * ((right - left) * (top - bottom) - inside)
