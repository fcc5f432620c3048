"""Write untrusted text as Markdown, so that it is shown as it is: as text, as code, as a block, and in tables.

Text gets on one line, as `paddock.plain_text` writes it, and characters that Markdown or HTML would interpret are
escaped. A word that Markdown would turn into a link is shown as code: an escape does not prevent that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from paddock.plain_text import lines, one_line

_SHOWN_CHARACTERS: Final = 20_000
_SPECIAL: Final = re.compile(
    r"""[\\`*\[\]<|~]            # code, emphasis, links, HTML, cells
    | (?<![^\W_])_ | _(?![^\W_]) # emphasis, which a word does not have inside
    | &(?=\#?\w+;)               # an entity
    """,
    re.VERBOSE,
)
_LINE_START: Final = re.compile(r"(?:#{1,6}(?= |$)|>|[-+](?= |$)|-{2}|=+(?= |$)|\d+(?=[.)](?: |$)))")
_LINK: Final = re.compile(r"://|^\W*www\.|[\w.+-]@[\w-]+\.[\w-]", re.IGNORECASE)


def as_text(text: str) -> str:
    """Untrusted text as plain text."""
    words = [code(word) if _LINK.search(word) else _SPECIAL.sub(r"\\\g<0>", word) for word in _flat(text).split(" ")]
    line = " ".join(words)
    start = _LINE_START.match(line)
    if start is None:
        return line
    return f"{start[0]}\\{line[start.end() :]}" if start[0].isdigit() else f"\\{line}"


def code(text: str) -> str:
    """Untrusted text as inline code. The fence is longer than any run of backticks in it."""
    flat = _flat(text)
    if "\\|" in flat:  # in a table, the backslash would be taken away
        return "\\|".join(map(_code, flat.split("|")))
    return _code(flat)


def _code(flat: str) -> str:
    if not flat.strip():
        return flat
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{space}{flat}{space}{fence}"


def verbatim(text: str) -> str:
    """Untrusted text as a code block, cut after 20 000 characters. The fence is longer than any run of backticks."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}\n… ({len(text)} characters in all)"
    shown = lines(cut)
    fence = "`" * (3 + max(map(len, re.findall(r"`{3,}", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already: results of `as_text` and `code`."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(markdown: str) -> str:
    """A `|` ends a cell even in code; `as_text` escaped its own."""
    return re.sub(r"(?<!\\)\|", r"\\|", markdown)


def _flat(text: str) -> str:
    return one_line(" ".join(text.split()))
