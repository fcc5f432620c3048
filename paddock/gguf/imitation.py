"""Find control tokens that imitate a role marker: `<|im_start|>` with a Cyrillic letter, or with invisible characters.

To a person the imitation looks like the marker, and the engine treats it as another token. Letters are compared by the
Latin letters that they look like, as in Unicode's confusables (https://www.unicode.org/reports/tr39/). Markers in
other characters on purpose, such as DeepSeek's `<｜User｜>`, have no such letters.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MARKER: Final = re.compile(r"<[^<>]{1,60}>|\[/?[^\[\]]{1,40}\]")
_LOOKS_LIKE: Final = str.maketrans(
    # Cyrillic, Greek, Armenian, Cherokee and Latin letters beyond ASCII
    "аеорсухіјѕһԁԛԝӏкмтвпгАВЕКМНОРСТУХІЈЅҮ" "αινορυτκχωηγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" "օսզհոյցԱՕՏ" "ᎠᎡᎢᎪᏀᏞᏟᏢᎷᏴ" "ıɑɡɩʀʏɴꜱᴀᴄᴇᴍᴏᴛᴜ",
    "aeopcyxijshdqwlkmtbnrABEKMHOPCTYXIJSY" "aivopuTkxwnyABEZHIKMNOPTYX" "ouqhnjgUOS" "DRTAGLCPMB" "iagiRYNsACEMOTU",
)  # fmt: skip
_INVISIBLE: Final = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_WORDS: Final = """
system user assistant model human bot gpt developer tool tools function ipython role im start end begin header turn of
id eot eom eos bos sep inst sys message channel final analysis return call text think thinking endoftext beginoftext
sentence response result s fim prefix suffix middle pad unk image audio video vision code
"""
_ROLE_WORDS: Final = frozenset(_WORDS.split())


def imitated_marker(text: str) -> str | None:
    """Return the role marker that a control token imitates, or None."""
    if text.isascii() or not _MARKER.fullmatch(text):
        return None
    visible = "".join(character for character in text if not _is_invisible(character))
    lookalike = unicodedata.normalize("NFKC", visible)
    # full-width punctuation is in markers of published models; full-width letters are not
    has_letters = any(unicodedata.normalize("NFKC", one) != one and one.isalpha() for one in visible)
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFD", lookalike.translate(_LOOKS_LIKE))
        if not unicodedata.combining(letter)
    )
    if visible == text and plain == lookalike and not has_letters:
        return None
    marked_words = re.findall(r"[^\W\d_]+", plain)
    if marked_words and all(word.lower() in _ROLE_WORDS for word in marked_words):
        return plain
    return None


def _is_invisible(character: str) -> bool:
    return character in _INVISIBLE or (
        not character.isascii() and unicodedata.category(character) in {"Cf", "Cn", "Co"}
    )
