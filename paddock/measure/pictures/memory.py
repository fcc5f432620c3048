"""Draw the memory of a model, part by part, against what its machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.engine.oracle import Memory
from paddock.measure.pictures.canvas import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    draw,
    from_zero,
    patch,
    shown,
)
from paddock.measure.pictures.picture import Picture
from paddock.model.units import human_bytes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "memory"
_UNITS = (("MiB", 2**20), ("GiB", 2**30), ("TiB", 2**40))


@dataclass(frozen=True, slots=True)
class MemoryBar:
    """The memory of a model on one machine.

    `label` says what was planned or loaded, `margin_bytes` must stay free, and `limit_bytes` is what the machine has
    for the model; None where that is not known. `limit_label` names it, such as `GPU memory of rtx-4090`.
    """

    label: str
    memory: Memory
    margin_bytes: int
    limit_bytes: int | None
    limit_label: str

    @property
    def needed_bytes(self) -> int:
        return self.memory.total_bytes + self.margin_bytes

    def parts(self) -> tuple[tuple[str, str, int], ...]:
        """Return (part, colour, bytes) in the order of the bar."""
        memory = self.memory
        return (
            ("weights", BLUE, memory.weights_bytes),
            ("KV cache", ORANGE, memory.kv_cache_bytes),
            ("compute buffers", GREEN, memory.compute_bytes),
            ("output buffer", PURPLE, memory.output_bytes),
            ("projector", SKY, memory.projector_bytes),
            (_MARGIN, "#c3ccd4", self.margin_bytes),
        )

    @property
    def sentence(self) -> str:
        """Such as `planned: 3.1 GiB with the margin, of 8.0 GiB (free memory)`. Whether a plan fits is decided for each
        device, and not here."""
        needed = f"{self.label}: {human_bytes(self.needed_bytes)} with the margin"
        if self.limit_bytes is None:
            return f"{needed}; {self.limit_label}"
        missing = self.needed_bytes - self.limit_bytes
        too_much = f": {human_bytes(missing)} too much" if missing > 0 else ""
        return f"{needed}, of {human_bytes(self.limit_bytes)} ({self.limit_label}){too_much}"


_MARGIN = "margin, which stays free"
_SHOWN_LIMIT = 5
"""A limit of more than this many times what is needed is written, and not drawn: the bar would be a line."""


def draw_memory(uses: Sequence[MemoryBar], *, title: str) -> Picture:
    """Draw a bar for each use, with a line at the machine's limit. There is at least one use."""
    largest = max(use.needed_bytes for use in uses)
    drawn = [use.limit_bytes for use in uses if _draws_limit(use, largest)]
    most = max([largest, *(limit for limit in drawn if limit is not None)])
    unit, size = next((pair for pair in _UNITS if most < 1024 * pair[1]), _UNITS[-1])

    def paint(figure: Figure) -> Sequence[Artist]:
        axes = figure.subplots()
        for place, use in enumerate(uses):
            _bar(axes, -place, use, size, most=most, with_limit=_draws_limit(use, largest))
        axes.set_yticks([-place for place in range(len(uses))], [shown(use.label, 30) for use in uses])
        axes.set_ylim(-len(uses) + 0.35, 0.75)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        from_zero(axes, most / size, axis="x")
        named = {part: colour for use in uses for part, colour, part_bytes in use.parts() if part_bytes}
        return [patch(part, colour) for part, colour in named.items()]

    return draw(
        NAME,
        paint,
        title=title,
        alt=". ".join(f"{use.sentence}. Parts: {_sizes(use)}" for use in uses) + ".",
        notes=[use.sentence for use in uses],
        height=74 + 62 * len(uses),
    )


def _draws_limit(use: MemoryBar, largest: int) -> bool:
    return use.limit_bytes is not None and use.limit_bytes <= _SHOWN_LIMIT * largest


def _bar(axes: Axes, height: float, use: MemoryBar, unit: int, *, most: int, with_limit: bool) -> None:
    left = 0.0
    for _, colour, part_bytes in use.parts():
        if part_bytes:
            axes.barh(height, part_bytes / unit, left=left, color=colour, height=0.5, zorder=2)
            left += part_bytes / unit
    if with_limit and use.limit_bytes is not None:
        limit = use.limit_bytes / unit
        colour = INK if use.needed_bytes <= use.limit_bytes else RED
        axes.plot([limit, limit], [height - 0.36, height + 0.36], color=colour, linewidth=2.2, zorder=5)
        is_right = use.limit_bytes > most / 2
        axes.annotate(
            f"{shown(use.limit_label, 40)}: {human_bytes(use.limit_bytes)}",
            (limit, height + 0.36),
            xytext=(-4 if is_right else 4, 2),
            textcoords="offset points",
            ha="right" if is_right else "left",
            color=colour,
        )


def _sizes(use: MemoryBar) -> str:
    return ", ".join(f"{part} {human_bytes(size)}" for part, _, size in use.parts() if size)
