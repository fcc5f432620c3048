"""Draw the quality of a model's variants over their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

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
    shown,
)
from paddock.measure.pictures.labels import label_points
from paddock.measure.pictures.picture import Picture
from paddock.model.units import human_bytes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

NAME = "quality"
_HEIGHT = 290
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class VariantQuality:
    """The mean KL divergence of a variant, with its 95 % interval, and the size of its weights. `is_subject` for the
    one that the picture is about."""

    label: str
    size_bytes: int
    kl: float
    ci95: tuple[float, float]
    is_subject: bool = False


def draw_quality(
    variants: Sequence[VariantQuality], *, reference: str, reference_bytes: int | None, texts: str, title: str
) -> Picture | None:
    """Draw the KL divergence of variants that were compared with one reference on the same texts. `reference_bytes` is
    None where its size is not known, and `texts` says what was read. None where no variant has a finite figure."""
    ordered = sorted(
        (variant for variant in variants if all(map(isfinite, (variant.kl, *variant.ci95)))),
        key=lambda variant: variant.size_bytes,
    )
    if not ordered:
        return None
    lowest = above_zero([variant.kl for variant in ordered])
    unit, size = ("GiB", _GIB) if ordered[-1].size_bytes >= _GIB else ("MiB", 2**20)

    def paint(figure: Figure) -> Sequence[Artist]:
        axes = figure.subplots()
        around(axes, [one / size for one in (reference_bytes, *(each.size_bytes for each in ordered)) if one])
        kl_axis(axes, [max(lowest, one) for variant in ordered for one in (variant.kl, *variant.ci95)])
        labels = []
        for variant in ordered:
            x, kl = variant.size_bytes / size, max(lowest, variant.kl)
            colour = ORANGE if variant.is_subject else BLUE
            ends = [max(lowest, end) for end in variant.ci95]
            axes.plot([x, x], ends, color=colour, linewidth=1.4, zorder=2, marker="_", markersize=9)
            point(axes, x, kl, colour=colour)
            labels.append((x, kl, variant.label))
        entries = [marker("this variant", ORANGE, style="none")] if any(one.is_subject for one in ordered) else []
        if not all(one.is_subject for one in ordered):
            entries.append(marker("other variants", BLUE, style="none"))
        if reference_bytes:
            axes.axvline(reference_bytes / size, color=GREEN, linestyle="--", linewidth=1.4, zorder=1)
            entries.append(marker(f"size of the reference, {reference}", GREEN, style="--", shape=""))
        label_points(axes, labels, size=(590, _HEIGHT - 45), radii=[4] * len(labels))
        axes.set_xlabel(f"size of the weights, {unit}")
        return entries

    return draw(
        NAME,
        paint,
        title=title,
        alt="; ".join(_sentence(variant) for variant in ordered) + f". The reference is {reference}.",
        notes=[
            f"From {shown(reference)}, on {texts}: less is better. Vertical lines: 95 % intervals.",
            *([AT_THE_EDGE] if any(variant.kl <= 0 for variant in ordered) else []),
        ],
        height=_HEIGHT,
    )


def _sentence(variant: VariantQuality) -> str:
    low, high = variant.ci95
    return (
        f"{variant.label}, {human_bytes(variant.size_bytes)}: KL divergence {number(variant.kl)}"
        f" ({number(low)} to {number(high)})"
    )
