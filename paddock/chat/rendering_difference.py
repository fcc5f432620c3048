"""Compare two renderings of one conversation: that of the audit, and that of the server.

| difference | decision |
|---|---|
| none, or only the begin token, which the engine adds when it tokenizes, or the end token | equal |
| only white space, or marks of a thought (`<think>`), which llama-server adds for some models | harmless |
| only characters of the tools that the template wrote as HTML (`&#34;`), which llama-server does not | harmless |
| one renderer refuses the conversation | harmless: no other text reaches the model |
| anything else: text that is added, lost, moved, or under another role | decisive |

Of a template that prints the date, digits and the names of months and days are not compared: the two renderings were
made at different times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from typing import Final

from paddock.chat.text import DATE_WORDS

_DATES: Final = ("strftime_now", "date_string", "datetime")
_THOUGHT: Final = re.compile(r"</?think(?:ing)?>")
_WORD: Final = re.compile(r"[A-Za-z]+|\d+")
_CONTEXT: Final = 24
_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class RenderingDifference:
    """The first place where the renderings of the conversation `probe` differ. `offset` counts the characters before
    it; `audited` and `served` are the texts there, None for a renderer that refuses the conversation."""

    probe: str
    offset: int
    audited: str | None
    served: str | None
    is_harmless: bool

    def __str__(self) -> str:
        if self.audited is None or self.served is None:
            refuses, renders = ("the engine", "the audit") if self.served is None else ("the audit", "the engine")
            return f"{self.probe}: {refuses} refuses this conversation, and {renders} renders it"
        texts = f"the audit has {self.audited!r}, the engine {self.served!r}"
        return f"{self.probe}: at character {self.offset} {texts}"


class RenderingComparison:
    """Comparison of renderings of the template `source`; `bos` and `eos` are the texts of its begin and end tokens."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._is_dated = any(name in source for name in _DATES)
        self._bos, self._eos = bos, eos

    def difference(
        self, probe: str, audited: str | None, served: str | None, *, has_tools: bool = False
    ) -> RenderingDifference | None:
        """Return the first difference; None where the renderings are equal. None as a text stands for a refusal."""
        if audited is None or served is None:
            is_equal = audited is served
            return None if is_equal else RenderingDifference(probe, 0, audited, served, is_harmless=True)
        ours, theirs = self._comparable(audited), self._comparable(served)
        if ours == theirs:
            return None
        offset = _first_difference(ours, theirs)
        written = unescape(ours) if has_tools else ours
        start = max(offset - _CONTEXT, 0)
        return RenderingDifference(
            probe,
            offset,
            ours[start : start + _SHOWN],
            theirs[start : start + _SHOWN],
            is_harmless=_essence(written) == _essence(theirs),
        )

    def _comparable(self, text: str) -> str:
        if self._bos:
            text = text.removeprefix(self._bos)
        if self._eos:
            text = text.removesuffix(self._eos)
        return _WORD.sub(_without_date, text) if self._is_dated else text


def _essence(text: str) -> str:
    return "".join(_THOUGHT.sub("", text).split())


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (left, right) in pairs if left != right), min(len(one), len(other)))


def _without_date(match: re.Match[str]) -> str:
    word = match[0]
    return "0" if word.isdigit() or word.lower() in DATE_WORDS else word
