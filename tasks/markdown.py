"""Make untrusted text harmless in Markdown."""

from __future__ import annotations

import re

_SHOWN_CHARACTERS = 20_000


def as_text(text: str) -> str:
    """Untrusted text as plain text in Markdown: on one line, with every special character escaped."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Untrusted text as inline code. The fence is longer than any run of backticks in it."""
    flat = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    return f"{fence} {flat} {fence}"


def verbatim(text: str) -> str:
    """Untrusted text as a code block, cut after 20 000 characters. The fence is longer than any run of backticks."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}\n… ({len(text)} characters in all)"
    fence = "`" * (3 + max(map(len, re.findall(r"`{3,}", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"
