"""Draw how long requests to a server take, over the number of concurrent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from paddock.measure.load_test import LevelResult, LoadTest
from paddock.measure.pictures.canvas import BLUE, GREEN, RED, LineStyle, doublings, draw, from_zero, marker, number
from paddock.measure.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "latency"
_FIGURES: Final[tuple[tuple[str, str, str, str, LineStyle], ...]] = (
    ("whole answer, median", "latency_s", "p50", RED, "-"),
    ("whole answer, 99th percentile", "latency_s", "p99", RED, ":"),
    ("first token, median", "first_token_s", "p50", BLUE, "-"),
    ("first token, 99th percentile", "first_token_s", "p99", BLUE, ":"),
)


def draw_latency(test: LoadTest, *, title: str, day: str = "") -> Picture | None:
    """Draw the latency of answers and of their first tokens, and the tokens a second of all requests together. `day` is
    the date of the test. None where no request was answered."""
    levels = sorted(test.levels, key=lambda level: level.concurrency)
    answered = [level for level in levels if level.latency_s is not None]
    if not answered:
        return None
    failed = [level for level in levels if level.errors]

    def paint(figure: Figure) -> Sequence[Artist]:
        left, right = figure.subplots(1, 2)
        entries = _seconds(left, answered)
        _tokens(right, answered)
        for axes in (left, right):
            doublings(axes, [level.concurrency for level in answered])
            axes.set_xlabel("concurrent requests")
        return entries

    return draw(
        NAME,
        paint,
        title=title,
        alt="; ".join(_sentence(level) for level in answered) + ".",
        notes=[
            f"{f'{day}. ' if day else ''}Answers of at most {test.max_tokens} tokens,"
            f" {'streamed' if test.streamed else 'not streamed'}.",
            *([f"Failed, and not counted: {'; '.join(_failures(level) for level in failed)}."] if failed else []),
        ],
    )


def _seconds(axes: Axes, levels: Sequence[LevelResult]) -> list[Artist]:
    entries, largest = [], 0.0
    for label, figure, percentile, colour, style in _FIGURES:
        rows = [
            (level.concurrency, float(getattr(getattr(level, figure), percentile)))
            for level in levels
            if getattr(level, figure) is not None
        ]
        if not rows:
            continue
        x, y = zip(*rows, strict=True)
        axes.plot(x, y, color=colour, linestyle=style, marker="o" if style == "-" else "v", zorder=3)
        entries.append(marker(label, colour, shape="o" if style == "-" else "v", style=style))
        largest = max(largest, *y)
    axes.set_title("seconds")
    from_zero(axes, largest)
    return entries


def _tokens(axes: Axes, levels: Sequence[LevelResult]) -> None:
    x, y = [level.concurrency for level in levels], [level.tok_per_s for level in levels]
    axes.plot(x, y, color=GREEN, marker="s", zorder=3)
    for left, up in zip(x, y, strict=True):
        axes.annotate(number(up), (left, up), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_title("tokens/s of all requests together")
    from_zero(axes, 1.1 * max(y))


def _sentence(level: LevelResult) -> str:
    latency = f"{number(level.latency_s.p50)} s" if level.latency_s else "none"
    first = f", first token {number(level.first_token_s.p50)} s" if level.first_token_s else ""
    return f"{level.concurrency} at once: median latency {latency}{first}, {number(level.tok_per_s)} tokens/s"


def _failures(level: LevelResult) -> str:
    errors = ", ".join(f"{count} × {name}" for name, count in level.errors.items())
    return f"{errors} with {level.concurrency} at once"
