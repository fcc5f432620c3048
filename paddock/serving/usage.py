"""Count the requests and tokens that a server answers."""

from __future__ import annotations

from typing import Any

from paddock.store.volume.usage import Usage


class UsageCounter:
    """Requests and tokens since the last `take`."""

    def __init__(self) -> None:
        self._sum = Usage()

    def add(self, usage: Any) -> None:
        """Add one request with the `usage` object of its answer; anything but an object counts no tokens."""
        fields = usage if isinstance(usage, dict) else {}
        self._sum += Usage(1, token_count(fields.get("prompt_tokens")), token_count(fields.get("completion_tokens")))

    def take(self) -> Usage:
        """Return the sum and reset it."""
        taken, self._sum = self._sum, Usage()
        return taken


def token_count(value: Any) -> int:
    """The value of a field of `usage`; 0 for anything but a positive number."""
    return value if isinstance(value, int) and value > 0 else 0
