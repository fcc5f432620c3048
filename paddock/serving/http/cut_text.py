"""Drop what is left of a character at the end of an answer that `max_tokens` cut.

A character may have several tokens. llama-server writes the bytes of the first ones as U+FFFD at the end of a whole
completion, and mostly leaves them out of a whole chat's answer. In a stream it does not send these tokens at all, nor
the space that often begins the first of them. So an answer that ends by its length has no U+FFFD at its end, and no
space before it, streamed or not: the joined stream equals the whole answer. (Where the first of these tokens holds
another complete character, that is in the whole answer alone.)

Whether a space at the end stands before a cut character is known of a whole completion by the U+FFFD, and of a streamed
one by the number of tokens that llama-server adds to each chunk (`timings_per_token`). Of a chat's answer it is not
known, so that one never ends with a space where it is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

_CUT_COMPLETION: Final = re.compile(" ?\ufffd+$")
_CUT_CHAT: Final = re.compile(" ?\ufffd+$| $")
_Json = dict[str, Any]


def drop_cut_character(answer: _Json) -> bool:
    """Drop it from the choices of a whole answer, in place. Returns whether one had it."""
    dropped = False
    for choice in _choices(answer):
        if choice.get("finish_reason") != "length":
            continue
        holder, names = _texts(choice, choice.get("message"))
        name = next((name for name in reversed(names) if holder.get(name)), None)
        if name is not None and (found := _end(holder, choice).search(holder[name])):
            holder[name] = holder[name][: found.start()]
            dropped = True
    return dropped


class CutCharacterFilter:
    """Drop cut characters from a stream: text that may have to be dropped is withheld until the next chunk."""

    def __init__(self, *, max_tokens: int | None, with_timings: bool) -> None:
        """`max_tokens` is the limit of each answer, and `with_timings` whether the client wants the timings of each
        chunk."""
        self._max_tokens = max_tokens
        self._with_timings = with_timings
        self._withheld: dict[int, tuple[str, str]] = {}
        """(name of the field, withheld text) of each choice."""
        self._sent_tokens: dict[int, int] = {}

    def apply(self, chunk: _Json) -> None:
        """Change a chunk in place."""
        tokens = _generated_tokens(chunk)
        for choice in _choices(chunk):
            index = choice.get("index", 0)
            ended = choice.get("finish_reason")
            if tokens is not None and ended is None:
                self._sent_tokens[index] = tokens
            limit = self._max_tokens or 0
            is_cut = ended == "length" and self._sent_tokens.get(index, limit) < limit
            holder, names = _texts(choice, choice.get("delta"))
            name = next((name for name in reversed(names) if holder.get(name)), None)
            if index in self._withheld and (name is not None or ended):
                field, text = self._withheld.pop(index)
                holder[field] = text + (holder.get(field) or "")
                name = name or field
            if name is None or ended not in {None, "length"}:
                continue
            pattern = _CUT_CHAT if ended is None or is_cut else _end(holder, choice)
            found = pattern.search(holder[name])
            if found:
                self._withheld[index] = (name, found[0])
                holder[name] = holder[name][: found.start()]
        if not self._with_timings and not any(choice.get("finish_reason") for choice in _choices(chunk)):
            chunk.pop("timings", None)


def _generated_tokens(chunk: _Json) -> int | None:
    """How many tokens had been generated when a chunk was sent; None if it does not say that."""
    timings = chunk.get("timings")
    number = timings.get("predicted_n") if isinstance(timings, dict) else None
    return number if isinstance(number, int) else None


def _end(holder: _Json, choice: _Json) -> re.Pattern[str]:
    """Pattern of the text to drop at the end of an answer that ends by its length."""
    return _CUT_COMPLETION if holder is choice else _CUT_CHAT


def _choices(value: _Json) -> Iterator[_Json]:
    choices = value.get("choices")
    return (choice for choice in choices if isinstance(choice, dict)) if isinstance(choices, list) else iter(())


def _texts(choice: _Json, inner: Any) -> tuple[_Json, tuple[str, ...]]:
    """The object that holds a choice's text, and the names of its texts in the order in which they are generated."""
    if isinstance(inner, dict):
        return inner, ("reasoning_content", "content")
    return choice, ("text",)
