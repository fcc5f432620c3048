"""What to look for in a text that a template adds: words, addresses, and characters that nobody sees."""

from __future__ import annotations

import calendar
import re
import unicodedata

_URL = re.compile(r"(?:https?|ftp|file|data)://[^\s'\"<>|{}\\)]{1,200}", re.IGNORECASE)
_MARKER = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
_MARKER_WORDS = 3
"""A marker of more words than this (`<always_recommend_acme>`) may say something, and is read as text."""

_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W\d_{_IDEOGRAPHS}]{{2,}}")
_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")
"""Characters that count as letters, marks or symbols, and show nothing."""

DATE_WORDS = frozenset(
    word.lower()
    for number in range(1, 13)
    for word in (
        *(calendar.month_name[number], calendar.month_abbr[number]),
        *(calendar.day_name[number % 7], calendar.day_abbr[number % 7]),
    )
) | {"am", "pm", "st", "nd", "rd", "th", "utc"}
"""The words that a date may bring."""


def invisible(text: str) -> list[str]:
    """The invisible characters in a text as `U+200B`, each once: format controls, tag characters, blank letters,
    variation selectors of plane 14.
    """
    found = {
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
    return [f"U+{ord(character):04X}" for character in sorted(found | controls)][:8]


def has_marker(text: str) -> bool:
    return _MARKER.search(text) is not None


def urls(text: str) -> list[str]:
    return list(dict.fromkeys(_URL.findall(text)))[:4]


def words(text: str, *, markers: bool = False) -> list[str]:
    """The words of a text in order and in lower case, without digits; an ideograph is a word. Those inside markers
    (`<|im_start|>`, `[INST]`) are there only with `markers`.
    """
    return [word.lower() for word in _WORD.findall(text if markers else _MARKER.sub(_read_marker, text))]


def _read_marker(match: re.Match[str]) -> str:
    return match[0] if len(_WORD.findall(match[0])) > _MARKER_WORDS else " "


def sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.!?:])\s+|\n+", text) if sentence.strip()]
