"""Extract words, URLs, markers and invisible characters from text."""

from __future__ import annotations

import calendar
import re
import unicodedata

_URL = re.compile(r"(?:https?|ftp|file|data)://[^\s'\"<>|{}\\)]{1,200}", re.IGNORECASE)
_MARKER = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
_MARKER_WORDS = 3
"""A marker with more words than this (`<always_recommend_acme>`) may carry a message, and is treated as text."""

_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W\d_{_IDEOGRAPHS}]{{2,}}")
_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")
"""Characters that Unicode classifies as letters, marks or symbols, but that render as nothing."""

DATE_WORDS = frozenset(
    word.lower()
    for number in range(1, 13)
    for word in (
        *(calendar.month_name[number], calendar.month_abbr[number]),
        *(calendar.day_name[number % 7], calendar.day_abbr[number % 7]),
    )
) | {"am", "pm", "st", "nd", "rd", "th", "utc"}
"""Words that occur in formatted dates, in lower case."""


def invisible_characters(text: str) -> list[str]:
    """Return the distinct invisible characters of a text as `U+200B`, at most 8.

    These are format controls, tag characters, blank letters, variation selectors of plane 14, and control characters
    other than newline, carriage return and tab.
    """
    hidden = {
        character
        for character in text
        if not character.isascii()
        and (
            unicodedata.category(character) in {"Cf", "Co", "Cn", "Cs"}
            or character in _INVISIBLE_LETTERS
            or 0xE0100 <= ord(character) <= 0xE01EF
        )
    }
    controls = {
        character for character in text if unicodedata.category(character) == "Cc" and character not in "\n\r\t"
    }
    return [f"U+{ord(character):04X}" for character in sorted(hidden | controls)][:8]


def has_marker(text: str) -> bool:
    """Whether a text contains something like `<|im_start|>` or `[INST]`."""
    return _MARKER.search(text) is not None


def find_markers(text: str) -> list[str]:
    """Return the distinct markers of a text, in order."""
    return list(dict.fromkeys(_MARKER.findall(text)))


def find_urls(text: str) -> list[str]:
    """Return the distinct URLs of a text, at most 4."""
    return list(dict.fromkeys(_URL.findall(text)))[:4]


def without_urls(text: str) -> str:
    return _URL.sub(" ", text)


def words(text: str, *, markers: bool = False) -> list[str]:
    """Return the words of a text in order and in lower case, without digits. Each ideograph is a word.

    Words inside markers (`<|im_start|>`, `[INST]`) are included only with `markers`.
    """
    return [word.lower() for word in _WORD.findall(text if markers else _MARKER.sub(_blank_marker, text))]


def _blank_marker(match: re.Match[str]) -> str:
    return match[0] if len(_WORD.findall(match[0])) > _MARKER_WORDS else " "


def sentences(text: str) -> list[str]:
    """Split a text after `.`, `!`, `?` and `:`, and at line breaks; blank parts are dropped."""
    return [sentence for sentence in re.split(r"(?<=[.!?:])\s+|\n+", text) if sentence.strip()]
