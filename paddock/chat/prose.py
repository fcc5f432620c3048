"""Find the prose among the literals of a template.

*Prose* are three or more words in a sentence. Sentences of published templates are known (`published_text`) and allowed
there; nothing else is. Shorter texts could be joined to a sentence. They may use the words of roles, markers and
schemas (`STRUCTURAL_WORDS`), and two more words in a template; beyond, all of them are reported.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from paddock.chat.literals import Literal, Literals
from paddock.chat.published_text import STRUCTURAL_WORDS, is_published
from paddock.chat.text import DATE_WORDS

MIN_PROSE_WORDS: Final = 3
_PAIR: Final = 2
_MAX_OWN_WORDS: Final = 1
"""Words that short texts of one template may have beyond `STRUCTURAL_WORDS`."""
_MAX_WORD_LETTERS: Final = 18
"""A longer word counts as several: it may be a sentence without spaces."""
_MAX_DIGITS: Final = 48
_MAX_NUMBER_DIGITS: Final = 20
"""Digits of all strings, and of all numbers: more may be codes of characters."""
_MAX_SYMBOLS: Final = 3
"""Symbols of all strings, such as emoji."""
_BARS: Final = frozenset("\u2581\uff5c")
"""Symbols of markers, as in `<\uff5ctool\u2581call\uff5c>`."""
_UNSPACED: Final = r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
_IDEOGRAPHS: Final = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD: Final = re.compile(rf"[{_IDEOGRAPHS}]|[{_UNSPACED}]{{1,4}}|[^\W\d_{_IDEOGRAPHS}{_UNSPACED}]+")
_CAMEL_CASE: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
MARKER: Final = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_ ]{1,40}\]")
MARKER_CHARACTER: Final = re.compile(r"[<>\[\]{}|~]")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?:;])\s+|\n+")
_CODE: Final = re.compile(
    r"(?:[.\u00b7\-\u2013_]{1,5}[\s/|]+){6,}"  # Morse code
    r"|(?:&#x?[0-9a-fA-F]+;\s?){2,}|(?:\\[ux][0-9a-fA-F]{2,4}){2,}|(?:%[0-9a-fA-F]{2}[^%]{0,12}){3,}"  # escapes
)


@dataclass(frozen=True, slots=True)
class _Short:
    line: int
    text: str
    words: tuple[str, ...]


def find_prose(literals: Literals) -> Iterator[Literal]:
    """Yield the sentences, then the short texts that could be joined to one, and what may be a message in numbers."""
    shorts: list[_Short] = []
    for kind, limit in ((literals.strings, _MAX_DIGITS), (literals.numbers, _MAX_NUMBER_DIGITS)):
        if sum(_digits(literal.text) for literal in kind) > limit:
            yield from (literal for literal in kind if _digits(literal.text))
    if sum(_symbols(literal.text) for literal in literals.strings) > _MAX_SYMBOLS:
        yield from (literal for literal in literals.strings if _symbols(literal.text))
    for literal in literals.strings:
        line, text = literal.line, literal.text
        if _CODE.search(text):
            yield literal
            continue
        if is_published_string(text):
            continue
        for sentence in split_sentences(text):
            words = words_of(sentence)
            if len(words) == _PAIR and is_published(words):
                continue
            if len(words) < MIN_PROSE_WORDS:
                shorts.append(_Short(line, sentence.strip(), words))
            elif not is_published(words):
                yield Literal(line, sentence.strip())
        markers = [marker for marker in MARKER.findall(text) if not is_published((marker,))]
        shorts += [_Short(line, marker, words_of(marker, markers=True)) for marker in markers]
    yield from _joinable(shorts)


def is_published_string(text: str) -> bool:
    """Whether a published template has this string: its words, or its characters if it looks like a marker."""
    everything = words_of(text, markers=True)
    if len(everything) >= MIN_PROSE_WORDS and is_published(everything):
        return True
    return MARKER_CHARACTER.search(text) is not None and is_published((text.strip(),))


def split_sentences(text: str) -> list[str]:
    """Split a string after `.`, `!`, `?`, `:` and `;`, and at line breaks; blank parts are dropped."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def words_of(text: str, *, markers: bool = False) -> tuple[str, ...]:
    """The words of a string in lower case, single letters included. Letters of unusual form count as what they look
    like; a word with a capital inside and one of more than 18 letters counts as several, and each ideograph as one.

    Words inside of markers (`<|im_start|>`, `[INST]`) are included only with `markers`.
    """
    plain = unicodedata.normalize("NFKC", text if markers else MARKER.sub(" ", text))
    found: list[str] = []
    for match in _WORD.findall(plain):
        for word in _CAMEL_CASE.split(match):
            found += [
                word[start : start + _MAX_WORD_LETTERS].lower() for start in range(0, len(word), _MAX_WORD_LETTERS)
            ]
    return tuple(found)


def _joinable(shorts: Sequence[_Short]) -> Iterator[Literal]:
    """The short texts with words of their own, as one text, if they have enough words for a sentence."""
    own = [short for short in dict.fromkeys(shorts) if not DATE_WORDS.union(STRUCTURAL_WORDS).issuperset(short.words)]
    if len({word for short in own for word in short.words} - STRUCTURAL_WORDS - DATE_WORDS) > _MAX_OWN_WORDS:
        yield Literal(
            min(short.line for short in own),
            " ".join(short.text for short in sorted(own, key=lambda short: short.line)),
        )


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _symbols(text: str) -> int:
    return sum(not (char.isascii() or char in _BARS) and unicodedata.category(char)[0] in "SM" for char in text)
