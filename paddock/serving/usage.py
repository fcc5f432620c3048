"""Count the requests and tokens that a server answers, and the time in which a revision is served."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from paddock.store.usage import Usage

_IDLE_S = 600.0


class UsageCounter:
    """Requests, tokens and seconds since the last `take`. A use begins with `begin`, and its time runs on until the
    revision is closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sum = Usage()
        self._clock = clock
        self._since: float | None = None

    def begin(self) -> None:
        """Count one use, and its time from now on. Does nothing where one has begun."""
        if self._since is None:
            self._since = self._clock()
            self._sum += Usage(uses=1)

    @property
    def is_worth_a_report(self) -> bool:
        """Whether there is a new use or request, or an idle server was not reported for some minutes."""
        return bool(self._sum.requests or self._sum.uses) or self._unreported_s >= _IDLE_S

    def add(self, usage: Any) -> None:
        """Add one request with the `usage` object of its answer; anything but an object counts no tokens."""
        fields = usage if isinstance(usage, dict) else {}
        self._sum += Usage(1, token_count(fields.get("prompt_tokens")), token_count(fields.get("completion_tokens")))

    def take(self) -> Usage:
        """Return the sum and reset it."""
        taken, self._sum = self._sum + Usage(seconds=self._unreported_s), Usage()
        if self._since is not None:
            self._since = self._clock()
        return taken

    @property
    def _unreported_s(self) -> float:
        return self._clock() - self._since if self._since is not None else 0.0


def token_count(value: Any) -> int:
    """The value of a field of `usage`; 0 for anything but a positive number."""
    return value if isinstance(value, int) and value > 0 else 0
