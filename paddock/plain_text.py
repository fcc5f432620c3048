"""Make text of any origin harmless to show: names, licences, descriptions, reasons, errors of other services.

What is shown to people passes through `one_line` or `lines`, wherever it goes: the terminal, logs, errors, Markdown
(`paddock.model.markdown`), web pages, tables, pictures. They leave no character that controls a terminal, ends a line,
reverses the direction of text or is invisible: each is written as its number, such as `\\x1b` or `\\u202e`.

Text that a program reads has its own rules: `csv_cell` is for spreadsheets.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U000e0100-\U000e01ef]")
"""Characters that Python counts as printable, and that are shown as nothing."""
_FORMULA: Final = r"^\s*[=+\-@|%]"
_NUMBER: Final = r"(?i)[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def is_plain(text: str) -> bool:
    """Whether `one_line` leaves a text as it is."""
    return text.isprintable() and not _INVISIBLE.search(text)


def one_line(text: str) -> str:
    """The text on one line, with each character that is not shown as itself written as its number."""
    return text if is_plain(text) else "".join(map(_shown, text))


def lines(text: str) -> str:
    """Each line of a text as `one_line` writes it. Tabs are kept."""
    return "\n".join("\t".join(map(one_line, line.removesuffix("\r").split("\t"))) for line in text.split("\n"))


def csv_cell(text: str) -> str:
    """The text on one line, and not as a formula: a spreadsheet takes what follows an apostrophe for text."""
    cell = one_line(text)
    return f"'{cell}" if re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell) else cell


def _shown(character: str) -> str:
    if is_plain(character):
        return character
    if character.isprintable():
        return f"\\U{ord(character):08x}" if ord(character) > 0xFFFF else f"\\u{ord(character):04x}"
    return character.encode("unicode_escape", errors="surrogatepass").decode()
