"""Print tables and lines on stdout. Text is untrusted: it is printed through `one_line` alone, so that it is neither
read as markup nor able to control the terminal.

Most output is plain text, for which rich, whose import takes longer than a short command, is not needed. It is where
there is a terminal to colour a word, to wrap a table that is wider, or to format Markdown.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING

from paddock.plain_text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class TextTable:
    """Rows of text in columns, under their names. Cells are wrapped where a terminal is narrow, and never cut: a name
    can be typed back."""

    def __init__(self, *columns: str) -> None:
        """`columns` are the names; with empty ones there is no head."""
        self._columns = columns
        self._rows: list[tuple[str, ...]] = []
        self._styles: list[str] = []

    def add(self, *cells: str, style: str = "") -> None:
        """Add a row. `style` is the colour of its first cell."""
        self._rows.append(tuple(map(one_line, cells)))
        self._styles.append(style)

    def __len__(self) -> int:
        return len(self._rows)

    def print(self) -> None:
        rows = [self._columns, *self._rows] if any(self._columns) else self._rows
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        on_terminal = is_terminal(sys.stdout)
        if on_terminal and (any(self._styles) or sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns):
            self._print_on_terminal()
            return
        for row in rows:
            cells = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
            _print(f" {'  '.join(cells)}".rstrip())

    def _print_on_terminal(self) -> None:
        from rich.table import Column, Table

        columns = (Column(name, overflow="fold") for name in self._columns)
        table = Table(*columns, box=None, show_header=any(self._columns))
        for (first, *others), style in zip(self._rows, self._styles, strict=True):
            table.add_row(_styled(first, style), *map(_styled, others))
        _console().print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Sequence[str] = ()) -> None:
    """Print a table. `styles` are the colours of the first cells."""
    table = TextTable(*columns)
    for number, row in enumerate(rows):
        table.add(*row, style=styles[number] if styles else "")
    table.print()


def print_line(line: str, *, word: str = "", style: str = "") -> None:
    """Print a line, which begins with `word` in a colour."""
    if style and is_terminal(sys.stdout):
        _console().print(_styled(one_line(word), style) + _styled(one_line(line)))
    else:
        _print(one_line(f"{word}{line}"))


def print_markdown(text: str) -> None:
    """Print a page of Markdown: formatted on a terminal, else as it is."""
    page = "\n".join(map(one_line, text.split("\n")))
    if not is_terminal(sys.stdout):
        _print(page)
        return
    from rich.markdown import Markdown  # takes a twentieth of a second, and nothing else needs it

    _console().print(Markdown(page, hyperlinks=False))


def _print(text: str) -> None:
    print(text)  # noqa: T201 printing is what it is for


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal, or is to be written as if it were. A closed one is None."""
    from paddock.settings import forces_color

    return stream is not None and (stream.isatty() or forces_color())


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _styled(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _width(text: str) -> int:
    """The columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
