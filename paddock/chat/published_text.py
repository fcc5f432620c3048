"""The sentences and words that published chat templates print, which count as harmless.

`published_text.txt` has a digest of each sentence of the chat templates that llama.cpp and trainers of models ship:
the first 16 bytes of the SHA-256 of its words, in hexadecimal. Digits, punctuation and the case of letters do not
count. The file has no text, and no sentence can be made up for a digest. `tests.support.published_text` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from paddock.chat.text import words

FILE = Path(__file__).with_name("published_text.txt")
_DIGEST_BYTES = 16


def digest_of(sentence: Sequence[str]) -> str:
    return sha256(" ".join(sentence).encode(errors="surrogatepass")).digest()[:_DIGEST_BYTES].hex()


def is_published(sentence: Sequence[str]) -> bool:
    """Whether a published template prints a sentence of these words, as `prose.words_of` returns them."""
    return digest_of(sentence) in published_digests()


@cache
def published_digests() -> frozenset[str]:
    """The digests of the file. `sandbox_process` reads it before its limits apply."""
    return frozenset(FILE.read_text(encoding="ascii").split())


STRUCTURAL_WORDS: Final = frozenset(
    words("""
        assistant bot chatbot developer gpt human ipython model observation role roles sys system tool tools
        user begin bom bos end endofturn eos eom eot header id ids im inner inst message messages middle of pad
        patch prefix prompt section sentence sep start suffix token turn ai application audio browser img image
        media picture video vision action arg args argument arguments array bool boolean call calls code content
        dict enum false float function functions int integer invoke items json key list mapping max maximum min
        minimum name namespace null nullable number note reminder important object param parameter parameters
        properties python required schema schemas str string true type union value xml any default description
        descriptions example format index length lines none optional pattern text title unknown amp quot query
        source item high medium low self url def output outputs response responses result results error
        available multiple analysis capabilities channel citation citations date disabled document documents
        effort enabled environment final guidelines instruction instructions knowledge cutoff current memory
        priority usage mode off preamble reasoning reflection think thinking thought today
    """)
)
"""Words of roles, markers and schemas, which short texts of templates have: names of things. They give no order."""
