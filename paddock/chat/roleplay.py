"""Fit a conversation into the context window: keep the character card and the newest turns, drop the oldest turns.

The *card* is the system messages at the start. A *turn* is a user's message and everything up to the next one; a
greeting before the first user message is also a turn. Turns are never shortened or summarized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paddock.errors import ConflictingConfiguration

Message = Mapping[str, object]


def fit_messages(
    messages: Sequence[Message], count_tokens: Callable[[str], int], budget: int
) -> list[dict[str, object]]:
    """Return the card and as many of the newest turns as fit into `budget` tokens, in their original order.

    `count_tokens` is called with each message's text (`Name: content`); it must include the tokens that the template
    adds around a message. Raises ConflictingConfiguration if the card and the newest turn alone exceed the budget.
    """
    card, turns = _split_turns(messages)
    left = budget - _count(card, count_tokens)
    kept: list[Message] = []
    for turn in reversed(turns):
        cost = _count(turn, count_tokens)
        if cost > left:
            break
        left -= cost
        kept = [*turn, *kept]
    if left < 0 or (turns and not kept):
        needed = budget - left + (_count(turns[-1], count_tokens) if turns and not kept else 0)
        raise ConflictingConfiguration(
            f"the character card and the newest turn take {needed} tokens, but the window has {budget} for them",
            cure="give the model a longer context, or shorten the card",
        )
    return [dict(message) for message in (*card, *kept)]


def message_text(message: Message) -> str:
    """Return a message's text, with the speaker's name in front if it has one, as the family templates render it."""
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


def _split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    start = 0
    while start < len(messages) and messages[start].get("role") in {"system", "developer"}:
        start += 1
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if not turns or message.get("role") == "user":
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns


def _count(messages: Sequence[Message], count_tokens: Callable[[str], int]) -> int:
    return sum(count_tokens(message_text(message)) for message in messages)
