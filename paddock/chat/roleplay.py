"""Keeps a conversation inside the window: the card and the newest turns stay whole, the oldest turns go.

The *card* is the system messages at the start. A *turn* is a user's message and everything up to the next one; a
greeting before the first user's message is a turn too. Nothing is shortened or summed up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paddock.errors import ConflictingConfiguration

Message = Mapping[str, object]


def fit_messages(
    messages: Sequence[Message], count_tokens: Callable[[str], int], budget: int
) -> list[dict[str, object]]:
    """The card and as many of the newest turns as `budget` tokens hold, in their order.

    `count_tokens` is asked for each message's text, `Name: content`; the marks that a template puts around a message
    are the caller's to add there. Raises ConflictingConfiguration when the card and the newest turn alone are over
    the budget.
    """
    card, turns = _parts(messages)
    left = budget - _tokens(card, count_tokens)
    kept: list[Message] = []
    for turn in reversed(turns):
        cost = _tokens(turn, count_tokens)
        if cost > left:
            break
        left -= cost
        kept = [*turn, *kept]
    if left < 0 or (turns and not kept):
        needed = budget - left + (_tokens(turns[-1], count_tokens) if turns and not kept else 0)
        raise ConflictingConfiguration(
            f"the character card and the newest turn take {needed} tokens, and the window has {budget} for them",
            cure="give the model a longer context, or shorten the card",
        )
    return [dict(message) for message in (*card, *kept)]


def spoken_text(message: Message) -> str:
    """What a message says, with the name of who says it: the text that the family templates write."""
    content, name = message.get("content"), message.get("name")
    if isinstance(content, str):
        text = content
    elif isinstance(content, Sequence):
        text = "".join(
            str(part["text"]) for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
    else:
        text = ""
    return f"{name}: {text}" if name else text


def _parts(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    start = 0
    while start < len(messages) and messages[start].get("role") in {"system", "developer"}:
        start += 1
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if not turns or message.get("role") == "user":
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns


def _tokens(messages: Sequence[Message], count_tokens: Callable[[str], int]) -> int:
    return sum(count_tokens(spoken_text(message)) for message in messages)
