"""Fold system messages into the user's, for chat templates that know none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any


def fold_system_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rewrite a chat for a template that knows no system message: its text becomes the user's, before the text of the
    user's message that follows it, or else after that of the one before. A newline joins them, as in llama-server."""
    folded: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] in {"system", "developer"}:
            pending.append({**message, "role": "user"})
        else:
            follows = message["role"] == "user"
            folded += [] if follows else _merged(pending)
            folded.append(_merged([*pending, message])[0] if follows else message)
            pending = []
    if pending and folded and folded[-1]["role"] == "user":
        pending.insert(0, folded.pop())
    return folded + _merged(pending)


def _merged(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge messages into one, which keeps the last one's other fields; no message gives none."""
    if not messages:
        return []
    contents = [message["content"] for message in messages if message["content"]]
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) == len(contents):
        return [{**messages[-1], "content": "\n".join(texts)}]
    parts = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
    return [{**messages[-1], "content": list(chain.from_iterable(parts))}]
