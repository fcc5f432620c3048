"""Draw pictures with matplotlib: one style, the same bytes for the same figures, and no text that is markup.

matplotlib takes a second to import, so that it is imported when a picture is drawn. Its state is global, so that one
thread draws at a time. Pictures have a background of their own: they are shown on dark and on light pages. Their
colours are those of M. Okabe and K. Ito (Color Universal Design, 2008), which colour-blind people tell apart.

The texts of an SVG stay texts, which are searched and read aloud. Both formats use DejaVu Sans, which comes with
matplotlib; a character that it lacks is replaced, by the same one in both formats.
"""

from __future__ import annotations

import logging
import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from io import BytesIO, StringIO
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

from paddock.measure.pictures.picture import Picture
from paddock.plain_text import one_line
from paddock.settings import keep_matplotlib_in_cache

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
INK, QUIET, FAINT, PAPER = "#1f2933", "#52606d", "#dde3e8", "#ffffff"
WIDTH: Final = 680
"""Of every picture, in CSS pixels. A PNG has one and a half times as many."""
_DPI, _PNG_DPI = 100, 150
_PNG_COLOURS = 64
_MARGIN, _TITLE_LINE, _NOTE_LINE, _LEGEND_ROW = 18, 22, 17, 21
_TITLE_PT, _TEXT_PT = 11.5, 8.5
_MOST_LABEL = 60
_REPLACEMENT = "□"
_STYLE: Final[dict[str, Any]] = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": _TEXT_PT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.labelsize": _TEXT_PT,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
    "grid.color": FAINT,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.fonttype": "none",
    "svg.hashsalt": "paddock",
}
LineStyle = Literal["-", "--", ":", "none"]
_DRAWING = Lock()
_TAG, _DECIMALS = re.compile(r"<[^>]*>"), re.compile(r"(\d\.\d\d)\d+")
_SIZE = re.compile(r'width="[\d.]+pt" height="[\d.]+pt"')
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)


def draw(
    name: str,
    paint: Callable[[Figure], Sequence[Artist]],
    *,
    title: str,
    alt: str,
    notes: Sequence[str] = (),
    height: int = 270,
) -> Picture:
    """Draw a picture: the title, the notes under it, what `paint` adds to the figure, and a legend of the artists that
    it returns, by their labels.

    `height` is that of the axes with their labels, in pixels. Texts may be of any origin and length.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a cache that it cannot write its fonts to
    keep_matplotlib_in_cache()
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heads = _wrapped(title, _TITLE_PT, "DejaVuSans-Bold.ttf") or [""]
    lines = [line for note in notes for line in _wrapped(note, _TEXT_PT, "DejaVuSans.ttf")]
    with _DRAWING, mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc does not count
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type] # its keys are a literal of 300 names
        figure = Figure(facecolor=PAPER, edgecolor="#cbd2d9", linewidth=1)
        legend = paint(figure)
        columns = _columns(legend)
        rows = math.ceil(len(legend) / columns)
        above = _MARGIN + _TITLE_LINE * len(heads) + _NOTE_LINE * len(lines) + 6
        below = _LEGEND_ROW * rows + 10
        total = above + height + below
        figure.set_size_inches(WIDTH / _DPI, total / _DPI)
        figure.set_dpi(_DPI)
        layout = ConstrainedLayoutEngine(rect=(0.012, below / total, 0.976, height / total), w_pad=0.04, h_pad=0.04)
        top = total - _MARGIN
        for line in heads:
            top -= _TITLE_LINE
            figure.text(_MARGIN / WIDTH, (top + 7) / total, line, fontsize=_TITLE_PT, fontweight="bold")
        for line in lines:
            top -= _NOTE_LINE
            figure.text(_MARGIN / WIDTH, (top + 5) / total, line, fontsize=_TEXT_PT, color=QUIET)
        if legend:
            figure.legend(
                handles=_by_row(legend, columns),
                loc="lower left",
                bbox_to_anchor=(_MARGIN / WIDTH - 0.005, 4 / total),
                ncols=columns,
                fontsize=_TEXT_PT,
                borderaxespad=0,
                handlelength=1.8,
            )
        layout.execute(figure)
        return Picture(name, " ".join(heads), clean(alt), _png(figure), _svg(figure, " ".join(heads)))


def _wrapped(text: str, size_pt: float, font: str) -> list[str]:
    """At most two lines of a text, of about the picture's width. A line's characters are of nearly the mean width."""
    flat = clean(text)
    measured = _font(font)
    measured.set_size(size_pt, _DPI)
    measured.set_text(flat)
    width = measured.get_width_height()[0] / 64
    most = int(0.94 * (WIDTH - 2 * _MARGIN) * len(flat) / width) if width else 1
    return textwrap.wrap(flat, max(most, 10), max_lines=2, placeholder=" …")


def _columns(legend: Sequence[Artist]) -> int:
    """How many columns a legend has space for."""
    longest = max((len(str(artist.get_label())) for artist in legend), default=0)
    return next((columns for columns, most in ((3, 25), (2, 42)) if longest <= most), 1)


def _by_row(legend: Sequence[Artist], columns: int) -> list[Artist]:
    """The artists in the order in which a legend, which fills its columns, shows them row by row."""
    return [artist for column in range(columns) for artist in legend[column::columns]]


def _png(figure: Figure) -> bytes:
    """The PNG with a palette: a chart has few colours, and takes a third of the bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(_PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call] # so too below
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = pixels.convert("RGB").quantize(_PNG_COLOURS, Image.Quantize.MAXCOVERAGE)  # which keeps those of small areas
    written = BytesIO()
    image.save(written, format="png", optimize=True)
    return written.getvalue()


def _svg(figure: Figure, title: str) -> str:
    """The SVG without the document type and the metadata that matplotlib adds, with a title for screen readers, and
    with coordinates of a hundredth."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = written.getvalue()
    text = _TAG.sub(_shortened, _METADATA.sub("", text[text.index("<svg") :], count=1))
    head, rest = text.split(">", 1)
    width, height = (round(inches * _DPI) for inches in figure.get_size_inches())
    head = _SIZE.sub(f'width="{width}" height="{height}"', head)
    return f'{head} role="img">\n<title>{escape(one_line(title))}</title>{rest}'


def _shortened(tag: re.Match[str]) -> str:
    return _DECIMALS.sub(r"\1", tag[0])


def marker(label: str, colour: str, *, filled: bool = True, style: LineStyle = "-", shape: str = "o") -> Artist:
    """A legend's entry for a series of points, connected by a line of the style; `none` for no line."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=colour,
        marker=shape,
        linestyle=style,
        markerfacecolor=colour if filled else PAPER,
        markeredgewidth=1.6,
        label=shown(label),
    )


def patch(label: str, colour: str, *, hatch: str = "") -> Artist:
    """A legend's entry for an area."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=PAPER if hatch else colour, hatch=hatch, linewidth=0, label=shown(label))


def series(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    *,
    colour: str,
    reliable: bool | Sequence[bool] = True,
    **kwargs: Any,
) -> None:
    """Draw points in the order given, connected. Those that are not reliable are hollow."""
    axes.plot(x, y, color=colour, zorder=3, **kwargs)
    believed = [reliable] * len(x) if isinstance(reliable, bool) else reliable
    for left, up, solid in zip(x, y, believed, strict=True):
        point(axes, left, up, colour=colour, reliable=solid)


def point(
    axes: Axes, x: float, y: float, *, colour: str, reliable: bool = True, size: float = 6, shape: str = "o"
) -> None:
    """Draw one point; one that is not reliable is hollow."""
    axes.plot(
        [x],
        [y],
        color=colour,
        marker=shape,
        markersize=size,
        markerfacecolor=colour if reliable else PAPER,
        markeredgewidth=1.6,
        linestyle="none",
        zorder=4,
    )


UNRELIABLE: Final = "hollow: not reliable"


def unreliable_entry() -> Artist:
    """The legend's entry that explains hollow points."""
    return marker(UNRELIABLE, QUIET, filled=False, style="none")


def from_zero(axes: Axes, largest: float, *, axis: str = "y") -> None:
    """Let an axis begin at zero, and end above the largest value."""
    limit = largest * 1.08 if largest > 0 else 1.0
    (axes.set_ylim if axis == "y" else axes.set_xlim)(0, limit)


AT_THE_EDGE: Final = "At the lower edge: 0, which a logarithmic scale does not have."


def above_zero(values: Sequence[float]) -> float:
    """The smallest KL divergence that a logarithmic axis shows, a third of the others' smallest: one of zero, as of the
    reference itself, is drawn there."""
    return min((value for value in values if value > 0), default=3e-4) / 3


def kl_axis(axes: Axes, values: Sequence[float]) -> None:
    """Let the y axis be a logarithmic one for KL divergences, which are all above zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = min(values), max(values)
    axes.set_ylim(low / 1.8, high * 1.8)
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0, 3.0) if high < 1000 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_ylabel("mean KL divergence, nats")


def around(axes: Axes, values: Sequence[float]) -> None:
    """Let the x axis of points hold all values, with space for their labels."""
    low, high = min(values), max(values)
    space = max(0.14 * (high - low), 0.05 * high)
    axes.set_xlim(max(0.0, low - space), high + space)


def doublings(axes: Axes, values: Sequence[int]) -> None:
    """Let the x axis have the values as ticks, on a scale of doublings."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(min(values) / 1.35, max(values) * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def number(value: float) -> str:
    """A figure with three significant digits, without an exponent: 0.0123, 4.57, 1,230."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(text: str, most: int = _MOST_LABEL) -> str:
    """A label of any origin, for the picture: clean, and cut where it is too long. matplotlib hides a label that begins
    with an underscore, so that such a one begins with a space."""
    label = clean(text)
    label = label if len(label) <= most else f"{label[: most - 1]}…"
    return f" {label}" if label.startswith("_") else label


def clean(text: str) -> str:
    """Text on one line, without control and formatting characters, and with a replacement for each character that the
    font lacks."""
    glyphs = _glyphs()
    flat = " ".join("".join(" " if unicodedata.category(one) == "Cc" else one for one in text).split())
    kept = (one for one in flat if unicodedata.category(one) not in {"Cf", "Cs", "Co", "Cn"})
    return "".join(one if ord(one) in glyphs else _REPLACEMENT for one in kept)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(_font("DejaVuSans.ttf").get_charmap())


def _font(name: str) -> FT2Font:
    """A font that comes with matplotlib."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return FT2Font(f"{get_data_path()}/fonts/ttf/{name}")
