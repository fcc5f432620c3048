"""Draw each benchmark of a model beside the ones before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from paddock.measure.pictures.canvas import (
    COLOURS,
    QUIET,
    draw,
    from_zero,
    marker,
    number,
    series,
    unreliable_entry,
)
from paddock.measure.pictures.picture import Picture
from paddock.model.units import counted

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "runs"
_MOST_RUNS = 30
_MOST_GROUPS = len(COLOURS)
_OTHERS = "others"


def _finite(value: float | None, factor: float = 1) -> float | None:
    return value * factor if value is not None and isfinite(value) else None


@dataclass(frozen=True, slots=True)
class PastRun:
    """The figures of one benchmark. `day` is its date; `group` says what makes runs comparable, such as the machine.
    None for what was not measured."""

    day: str
    group: str
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    first_token_s: float | None
    reliable: bool


_PANELS: tuple[tuple[str, Callable[[PastRun], float | None]], ...] = (
    ("decode, tokens/s", lambda run: _finite(run.decode_tok_per_s)),
    ("prefill, tokens/s", lambda run: _finite(run.prefill_tok_per_s)),
    ("first token, ms", lambda run: _finite(run.first_token_s, 1000)),
)


def draw_runs(runs: Sequence[PastRun], *, title: str) -> Picture | None:
    """Draw the figures of the runs, at most the last 30, oldest first; those of one group are connected. None where
    nothing was measured."""
    last = list(runs[-_MOST_RUNS:])
    groups = list(dict.fromkeys(run.group for run in reversed(last)))  # the newest first
    colours = {group: COLOURS[place] if place < _MOST_GROUPS else QUIET for place, group in enumerate(groups)}
    panels = [(name, figure) for name, figure in _PANELS if any(figure(run) is not None for run in last)]
    if not panels:
        return None

    def paint(figure: Figure) -> Sequence[Artist]:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, figure_of) in zip(grid, panels, strict=True):
            largest = 0.0
            for group, colour in colours.items():
                rows = [
                    (place, value, run.reliable)
                    for place, run in enumerate(last, 1)
                    if run.group == group and (value := figure_of(run)) is not None
                ]
                if rows:
                    x, y, reliable = zip(*rows, strict=True)
                    series(axes, x, y, colour=colour, reliable=reliable)
                    largest = max(largest, *y)
            axes.set_title(name)
            from_zero(axes, largest * 1.05)
            _days(axes, last)
        entries = [marker(group, colour) for group, colour in list(colours.items())[:_MOST_GROUPS]]
        if len(groups) > _MOST_GROUPS:
            entries.append(marker(_OTHERS, QUIET))
        return entries if all(run.reliable for run in last) else [*entries, unreliable_entry()]

    shown = f"the last {len(last)} of {len(runs)} runs" if len(runs) > len(last) else counted(len(runs), "run")
    return draw(
        NAME,
        paint,
        title=title,
        alt="; ".join(_sentence(run) for run in last) + ".",
        notes=[f"{shown}, oldest first. Runs of one machine and context are connected."],
        height=230,
    )


def _days(axes: Axes, runs: Sequence[PastRun]) -> None:
    """A tick for each run, and the dates of the first and the last one."""
    axes.set_xlim(0.5, len(runs) + 0.5)
    axes.set_xticks(range(1, len(runs) + 1), [""] * len(runs))
    axes.set_xlabel(" to ".join(dict.fromkeys((runs[0].day, runs[-1].day))))


def _sentence(run: PastRun) -> str:
    figures = ", ".join(
        f"{name.split(',', maxsplit=1)[0]} {number(value)}"
        for name, figure in _PANELS
        if (value := figure(run)) is not None
    )
    return f"{run.day}, {run.group}: {figures}{'' if run.reliable else ' (not reliable)'}"
