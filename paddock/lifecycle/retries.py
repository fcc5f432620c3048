"""Retry policy of each kind of step: how often and after which delays a transient failure is tried again.

The library's own runner (`steps.PlainRunner`) and Prefect's tasks (`tasks.policies`) take the same numbers from here.
It is a step that is retried, such as listing a repository on the Hub; requests for the ranges of a file have a budget
of their own (`paddock.transfer.retry_budget`).
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kind of a step. It selects the delays of its retries (`RETRY_DELAYS_S`)."""

    LOCAL = "local"
    """Works on the volume alone. Its failures are permanent."""
    HUB = "hub"
    """Sends requests to the Hub."""
    STORE = "store"
    """Sends requests to the remote store."""
    TRANSFER = "transfer"
    """Transfers files. Each try resumes where the last one stopped, so that many tries are cheap."""
    ENGINE = "engine"
    """Runs the engine's process. A file that crashes it once crashes it again."""


RETRY_DELAYS_S: dict[Kind, tuple[int, ...]] = {
    Kind.LOCAL: (),
    Kind.HUB: (1, 5, 15),
    Kind.STORE: (1, 5, 15),
    Kind.TRANSFER: (1, 5, 15, 60, 120, 300),
    Kind.ENGINE: (),
}
"""Seconds before each retry of a step that raised a TransientError. A permanent error fails at the first try."""

MAX_RETRY_AFTER_S = 60.0
"""A server that names a time after which it answers again (`Retry-After`) is asked then, and after this time at the
latest. Prefect's tasks have their fixed delays."""

JITTER = 0.5
"""A delay is lengthened by up to this factor, so that workers that started together do not retry together."""
