"""Fit tables into the width of Prefect's pages: a row that is too wide becomes a line of a list below its table.

Neither of Prefect's user interfaces breaks lines within the cells of a table artifact, and the first one does not in
Markdown either: a long text would run off the page. On a window of 1280 pixels, a table artifact has 580 pixels in the
second interface, and Markdown 708 in the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from paddock.model.markdown import table

_CHARACTER_PX = 8
_TABLE_PX, _TABLE_COLUMN_PX = 580, 16
_PAGE_PX, _PAGE_COLUMN_PX = 708, 24
_PLAIN = frozenset({"answer", "done", "found", "median", "message", "outcome", "result", "severity", "size", "why"})
"""Columns whose texts need no name before them."""
_MARKUP = re.compile(r"[*`]|\\(?=[^\w\s])|!?\[[^\]]*\]\([^)]*\)")
_FENCE = re.compile(r"^(`{3,})")
_SEPARATOR = re.compile(r"^\|(?: *:?-+:? *\|)+$")
_BAR = re.compile(r"(?<!\\)\|")


def fits(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table artifact of Markdown cells is no wider than its page."""
    return _width(head, rows, _TABLE_COLUMN_PX) <= _TABLE_PX


def _fits_page(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    return _width(head, rows, _PAGE_COLUMN_PX) <= _PAGE_PX


def _width(head: Sequence[str], rows: Sequence[Sequence[str]], column_px: int) -> int:
    longest = [max(map(_length, column)) for column in zip(head, *rows, strict=True)]
    return _CHARACTER_PX * sum(longest) + column_px * len(longest)


def fitted_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The Markdown of a table of the rows that fit, and of a list of the others. A table of a few of many rows is none:
    then all of them are in the list."""
    narrow = sorted(rows, key=lambda row: sum(map(_length, row)))
    while narrow and not _fits_page(head, narrow):
        narrow.pop()
    if 2 * len(narrow) < len(rows):
        narrow = []
    kept = [row for row in rows if row in narrow]
    listed = [_line(head, row) for row in rows if row not in narrow]
    return "\n\n".join([*([table(head, kept)] if kept else []), *(["\n".join(listed)] if listed else [])])


def with_fitted_tables(markdown: str) -> str:
    """A page of Markdown whose tables fit. What is in code blocks stays as it is."""
    return "\n".join(_fitted(markdown.split("\n")))


def _fitted(lines: Sequence[str]) -> Iterator[str]:
    place, fence = 0, ""
    while place < len(lines):
        line = lines[place]
        if found := _FENCE.match(line):
            fence = "" if fence and line == fence else fence or found[1]
        is_head = not fence and line.startswith("|") and place + 1 < len(lines) and _SEPARATOR.match(lines[place + 1])
        if not is_head:
            yield line
            place += 1
            continue
        end = place + 2
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        head, rows = _cells(line), [_cells(row) for row in lines[place + 2 : end]]
        yield from lines[place:end] if _fits_page(head, rows) else fitted_table(head, rows).split("\n")
        place = end


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in _BAR.split(row)[1:-1]]


def _line(head: Sequence[str], row: Sequence[str]) -> str:
    rest = zip(head[1:], row[1:], strict=True)
    text = "; ".join(cell if name in _PLAIN else f"{name}: {cell}" for name, cell in rest if cell)
    first = row[0] if "*" in row[0] or not row[0] else f"**{row[0]}**"
    return f"- {first}{'' if row[0].endswith('?') or not first else ':'} {text}".replace("-  ", "- ")


def _length(cell: str) -> int:
    return len(_MARKUP.sub("", cell))
