"""Drop what is left of a character at the end of an answer that `max_tokens` cut.

A character may have several tokens. llama-server writes the bytes of the first ones as U+FFFD at the end of a whole
answer, and does not send them in a stream. Neither is text of the model, so an answer that ends by its length has no
U+FFFD at its end, streamed or not: the joined stream equals the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CUT = "\ufffd"
_Json = dict[str, Any]


def drop_cut_character(answer: _Json) -> bool:
    """Drop it from the choices of a whole answer, in place. Returns whether one had it."""
    dropped = False
    for choice in _choices(answer):
        if choice.get("finish_reason") != "length":
            continue
        holder, names = _texts(choice, choice.get("message"))
        name = next((name for name in reversed(names) if holder.get(name)), None)
        if name is not None and holder[name].endswith(_CUT):
            holder[name] = holder[name].rstrip(_CUT)
            dropped = True
    return dropped


class CutCharacterFilter:
    """The same for a stream: U+FFFD at the end of a chunk is withheld until more text of the choice comes, or until it
    ends otherwise than by its length."""

    def __init__(self) -> None:
        self._withheld: dict[int, tuple[str, str]] = {}
        """(name of the field, withheld text) of each choice."""

    def apply(self, chunk: _Json) -> None:
        """Change a chunk in place."""
        for choice in _choices(chunk):
            index = choice.get("index", 0)
            holder, names = _texts(choice, choice.get("delta"))
            name = next((name for name in reversed(names) if holder.get(name)), None)
            ended = choice.get("finish_reason")
            if index in self._withheld and (name is not None or ended not in {None, "length"}):
                field, text = self._withheld.pop(index)
                holder[field] = text + (holder.get(field) or "")
                name = name or field
            if name is not None and holder[name].endswith(_CUT) and ended in {None, "length"}:
                kept = holder[name].rstrip(_CUT)
                self._withheld[index] = (name, holder[name][len(kept) :])
                holder[name] = kept


def _choices(value: _Json) -> Iterator[_Json]:
    choices = value.get("choices")
    return (choice for choice in choices if isinstance(choice, dict)) if isinstance(choices, list) else iter(())


def _texts(choice: _Json, inner: Any) -> tuple[_Json, tuple[str, ...]]:
    """The object that holds a choice's text, and the names of its texts in the order in which they are generated."""
    if isinstance(inner, dict):
        return inner, ("reasoning_content", "content")
    return choice, ("text",)
