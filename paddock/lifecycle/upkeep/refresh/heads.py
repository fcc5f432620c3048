"""Ask the Hub for the commits of many branches, or the files of many commits, several at a time.

A Hub that limits requests limits all of a client's, so there is one backoff for all: once it answers 429, or does not
answer, no request is sent until its pause is over. After a few pauses without an answer in between, the Hub counts as
down, and what is left is not asked.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from paddock.errors import HubUnavailable, PaddockError
from paddock.hub import Hub
from paddock.model.artifact import BranchHead, Listing
from paddock.model.names import ModelName

log = logging.getLogger(__name__)
_CONNECTIONS = 8
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_MAX_PAUSES = 7
"""With pauses that double from 1 s on, a Hub may refuse for two minutes before it counts as down."""

_PAUSES_AGAIN_S = (0.0, 5.0, 10.0, 20.0, 40.0, 60.0)

T = TypeVar("T")
Branch = tuple[ModelName, str]
"""A model, and the branch, tag or commit of it."""


def read_heads(
    hub: Hub,
    branches: Collection[Branch],
    *,
    connections: int = _CONNECTIONS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Branch, BranchHead | PaddockError]:
    """The commit of each branch, or the error of the Hub. One request for each, and again only after HubUnavailable."""
    return _ask(hub.head, branches, _Backoff(sleep, clock), connections)


def read_listings(hub: Hub, commits: Collection[Branch]) -> dict[Branch, Listing | PaddockError]:
    """The files of each commit, as `read_heads`."""
    return _ask(hub.listing, commits, _Backoff(time.sleep, time.monotonic), _CONNECTIONS)


def answers_again(hub: Hub, branch: Branch, *, sleep: Callable[[float], None]) -> bool:
    """Whether the Hub answers a request for a branch, or does so within the next two minutes."""
    for pause_s in _PAUSES_AGAIN_S:
        sleep(pause_s)
        try:
            hub.head(*branch)
        except HubUnavailable:
            continue
        except PaddockError:  # an answer too
            pass
        return True
    return False


def _ask(
    ask: Callable[[ModelName, str], T], branches: Collection[Branch], backoff: _Backoff, connections: int
) -> dict[Branch, T | PaddockError]:
    def read(branch: Branch) -> T | PaddockError:
        while True:
            sent_at = backoff.wait()
            if isinstance(sent_at, PaddockError):
                return sent_at
            try:
                answer = ask(*branch)
            except HubUnavailable as error:
                if not backoff.failed(error, sent_at):
                    return error
            except PaddockError as error:
                return error
            else:
                backoff.succeeded()
                return answer

    distinct = list(dict.fromkeys(branches))
    with ThreadPoolExecutor(connections, thread_name_prefix="paddock-hub") as pool:
        return dict(zip(distinct, pool.map(read, distinct), strict=True))


class _Backoff:
    """The pauses of all requests to one Hub. Failures of requests that were sent before a pause began are one."""

    def __init__(self, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._pauses = 0
        self._until = 0.0
        self._began = float("-inf")
        self._down: HubUnavailable | None = None

    def wait(self) -> float | HubUnavailable:
        """Wait until a request may be sent, and return the time; the last error once the Hub counts as down."""
        while True:
            with self._lock:
                if self._down is not None:
                    return self._down
                left = self._until - self._clock()
            if left <= 0:
                return self._clock()
            self._sleep(left)

    def failed(self, error: HubUnavailable, sent_at: float) -> bool:
        """Begin a pause. Returns whether the request may be sent again."""
        with self._lock:
            if self._down is not None:
                return False
            if sent_at <= self._began:
                return True
            if self._pauses == _MAX_PAUSES:
                self._down = error
                return False
            pause = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2**self._pauses) * random.uniform(1, 1.25)  # noqa: S311 (no secret)
            self._pauses += 1
            self._began = self._clock()
            pause = max(pause, min(error.retry_after_s or 0.0, _MAX_PAUSE_S))
            self._until = self._began + pause
            log.warning("%s; no request is sent for %.0f s", error.message, pause)
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._pauses = 0
