"""Draw the use of the volume over time and by model, as an SVG.

The areas of the models are stacked. A sample holds until the next one, since what happened in between is not known. The
picture brings its own background: Prefect shows it on a dark page or on a light one, and says not on which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape

from paddock.lifecycle.upkeep.volume_use import UseHistory, UseSample
from paddock.model.units import human_bytes
from paddock.plain_text import one_line

_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT, _ROW = 760, 78, 18, 66, 250, 22
_MOST_POINTS = 100
_OTHERS, _UNUSED = "other models", "in no snapshot"
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#b8a100")
_GREYS = {_OTHERS: "#9aa4ad", _UNUSED: "#d5dade"}
_INK, _FAINT = "#1f2933", "#e3e8ec"
_MOST_NAME = 34


def draw(history: UseHistory, *, title: str) -> str:
    """The SVG of a history with at least one sample. `title` is plain text."""
    samples = _thinned(history.samples)
    rows = _by_series(samples)
    series = {name: _colour(name, place) for place, name in enumerate(rows)}
    now = samples[-1]
    begin, end = samples[0].at, now.at
    end += max(timedelta(days=1), (end - begin) / 40)  # the last sample has a width too
    capacity = max(sample.used_bytes + sample.free_bytes for sample in samples)
    most = max(1, *(sample.used_bytes for sample in samples))
    shows_capacity = capacity <= 3 * most  # a nearly empty disk would press the areas flat
    top, step, unit = _scale(capacity if shows_capacity else most)

    def x(at: datetime) -> int:
        return _LEFT + round((at - begin) / (end - begin) * (_WIDTH - _LEFT - _RIGHT))

    def y(size: float) -> int:
        return _TOP + _PLOT - round(size / top * _PLOT)

    lines = [_text(_LEFT, 28, title, size=16, weight=600), _text(_LEFT, 49, now.line, colour="#52606d")]
    for tick in range(round(top / step) + 1):
        place = y(tick * step)
        lines.append(f'<path d="M{_LEFT} {place}H{_WIDTH - _RIGHT}" stroke="{_FAINT}"/>')
        label = f"{tick * step / unit[1]:g} {unit[0]}"
        lines.append(_text(_LEFT - 8, place + 4, label, anchor="end"))
    totals = [0] * len(samples)
    areas = []
    for name, sizes in rows.items():
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        steps = "".join(f"H{x(sample.at)}V{y(total)}" for sample, total in zip(samples, totals, strict=True))
        path = f"M{_LEFT} {y(0)}{steps}H{x(end)}V{y(0)}Z"
        areas.append(f'<path d="{path}" fill="{series[name]}" stroke="#fff" stroke-width=".5"/>')
    lines += reversed(areas)  # each area reaches down to the axis, and the next one covers what is not its own
    if shows_capacity:
        room = "".join(f"H{x(sample.at)}V{y(sample.used_bytes + sample.free_bytes)}" for sample in samples)
        first = y(samples[0].used_bytes + samples[0].free_bytes)
        lines.append(
            f'<path d="M{_LEFT} {first}{room}H{x(end)}" fill="none" stroke="{_INK}" stroke-dasharray="5 4"/>'
            + _text(_WIDTH - _RIGHT, y(now.used_bytes + now.free_bytes) - 6, "used and free space", anchor="end")
        )
    for at in _dates(begin, end):
        anchor = "start" if at == begin else "middle"
        lines.append(_text(x(at), _TOP + _PLOT + 20, f"{at:%d %b %Y}", anchor=anchor))
    entries = [(name, series[name], sizes[-1]) for name, sizes in rows.items()]
    return _framed([*lines, *_legend(entries)], _TOP + _PLOT + 42 + _ROW * math.ceil(len(entries) / 2), title)


def _thinned(samples: Sequence[UseSample]) -> list[UseSample]:
    """At most 100 samples, evenly chosen; the last one is among them."""
    every = math.ceil(len(samples) / _MOST_POINTS)
    return list(samples[::-1][::every][::-1])


def _by_series(samples: Sequence[UseSample]) -> dict[str, list[int]]:
    """The sizes of each series at each sample: the models with the largest peaks, then the other bytes."""
    peaks: dict[str, int] = {}
    for sample in samples:
        for model, size in sample.models.items():
            peaks[model] = max(peaks.get(model, 0), size)
    shown = sorted(peaks, key=lambda model: (-peaks[model], model))[: len(_COLOURS)]
    rows = {model: [sample.models.get(model, 0) for sample in samples] for model in shown}
    named = [_sum_of(sample.models, shown) for sample in samples]
    rows[_OTHERS] = [
        sample.used_bytes - sample.unused_bytes - size for sample, size in zip(samples, named, strict=True)
    ]
    rows[_UNUSED] = [sample.unused_bytes for sample in samples]
    return {name: sizes for name, sizes in rows.items() if any(sizes)}


def _sum_of(sizes: Mapping[str, int], names: Sequence[str]) -> int:
    return sum(sizes.get(name, 0) for name in names)


def _colour(name: str, place: int) -> str:
    return _GREYS.get(name) or _COLOURS[place]


def _scale(most: int) -> tuple[float, float, tuple[str, int]]:
    """(the top of the axis, the distance of its ticks, (their unit, its bytes))."""
    exponent = min(5, max(0, int(math.log2(max(most, 1))) // 10))
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")[exponent], 1024**exponent
    rough = most / unit[1] / 5
    power = 10 ** math.floor(math.log10(max(rough, 0.01)))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return step * math.ceil(most / unit[1] / step) * unit[1], step * unit[1], unit


def _dates(begin: datetime, end: datetime) -> list[datetime]:
    """At most five midnights for the axis, evenly apart and not at its ends; for less than three days, its begin."""
    days = (end - begin).days
    if days < 3:
        return [begin]
    first = begin.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    dates = [first + timedelta(days=day) for day in range(0, days, math.ceil(days / 5))]
    margin = (end - begin) / 15
    return [at for at in dates if begin + margin <= at <= end - margin]


def _legend(entries: Sequence[tuple[str, str, int]]) -> list[str]:
    """A coloured square, the name and the present size of each series, in two columns."""
    lines, column = [], (_WIDTH - 24) // 2
    for place, (name, colour, size) in enumerate(entries):
        left, base = 24 + column * (place % 2), _TOP + _PLOT + 50 + _ROW * (place // 2)
        shown = name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"
        lines.append(f'<rect x="{left}" y="{base - 11}" width="13" height="13" rx="3" fill="{colour}"/>')
        lines.append(_text(left + 20, base, shown))
        lines.append(_text(left + column - 24, base, human_bytes(size), anchor="end"))
    return lines


def _text(
    x: int,
    y: int,
    text: str,
    *,
    size: int = 13,
    weight: int = 400,
    anchor: str = "start",
    colour: str = _INK,
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(one_line(text))}</text>'


def _framed(lines: Sequence[str], height: int, title: str) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
    frame = f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="8" fill="#fff" stroke="#cbd2d9"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img">'
    return "".join([head, f"<title>{escape(one_line(title))}</title>", frame, *lines, "</svg>"])
