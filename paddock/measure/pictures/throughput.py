"""Draw how fast a model reads prompts and writes answers, over their length."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from paddock.measure.benchmark_report import Benchmark, LengthResult
from paddock.measure.pictures.canvas import (
    BLUE,
    RED,
    doublings,
    draw,
    from_zero,
    number,
    series,
    unreliable_entry,
)
from paddock.measure.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "throughput"


def draw_throughput(measured: Benchmark, *, title: str) -> Picture | None:
    """Draw prefill over the prompt's length, and decode over the answer's; a model that embeds has no decode.

    A length that was not measured has no point. None where no length was measured.
    """
    results = [result for result in measured.results if result.tok_per_s is not None and isfinite(result.tok_per_s)]
    panels = [
        (name, axis, colour, sorted(rows, key=lambda row: row.n_prompt + row.n_gen))
        for name, axis, colour, rows in (
            ("prefill", "tokens of the prompt", BLUE, [row for row in results if row.n_prompt]),
            ("decode", "tokens of the answer", RED, [row for row in results if row.n_gen]),
        )
        if rows
    ]
    if not panels:
        return None

    def paint(figure: Figure) -> Sequence[Artist]:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, axis, colour, rows) in zip(grid, panels, strict=True):
            _panel(axes, rows, colour, reliable=measured.reliable)
            axes.set_title(f"{name}, tokens/s")
            axes.set_xlabel(axis)
        return [] if measured.reliable else [unreliable_entry()]

    figures = [f"{name} {_text(row)}" for name, _, _, rows in panels for row in rows]
    return draw(
        NAME,
        paint,
        title=title,
        alt=f"Tokens a second: {', '.join(figures)}. {_belief(measured)}",
        notes=[f"{where(measured)}. Vertical lines: the spread of the repetitions.", *_doubts(measured)],
    )


def _panel(axes: Axes, rows: Sequence[LengthResult], colour: str, *, reliable: bool) -> None:
    lengths = [row.n_prompt + row.n_gen for row in rows]
    speeds = [row.tok_per_s or 0.0 for row in rows]
    halves = [speed * (row.spread or 0) / 2 for speed, row in zip(speeds, rows, strict=True)]
    doublings(axes, lengths)
    series(axes, lengths, speeds, colour=colour, reliable=reliable)
    axes.errorbar(lengths, speeds, yerr=halves, fmt="none", ecolor=colour, elinewidth=1.2, capsize=3, zorder=2)
    for x, y, half in zip(lengths, speeds, halves, strict=True):
        axes.annotate(number(y), (x, y + half), xytext=(0, 6), textcoords="offset points", ha="center")
    from_zero(axes, 1.1 * max(speed + half for speed, half in zip(speeds, halves, strict=True)))


def _text(row: LengthResult) -> str:
    return f"{number(row.tok_per_s or 0)} with {row.n_prompt + row.n_gen} tokens"


def where(measured: Benchmark) -> str:
    """The processor that a benchmark ran on, its context, and when."""
    machine = measured.machine
    is_on_gpu = bool(machine.gpus) and measured.uses_gpus is not False
    device = ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus)) if is_on_gpu else machine.cpu
    context = measured.parameters.get("n_ctx")
    day = f", {measured.measured_at[:10]}" if measured.measured_at else ""
    return f"{device}{f', {context} tokens of context' if context else ''}{day}"


def _belief(measured: Benchmark) -> str:
    return "The result is reliable." if measured.reliable else "The result is not reliable."


def _doubts(measured: Benchmark) -> list[str]:
    if measured.reliable:
        return []
    return [f"Not reliable: {'; '.join(measured.doubts) or 'an older version measured it, and did not judge it'}."]
