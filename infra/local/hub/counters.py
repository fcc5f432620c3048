"""Counters of the requests that the local Hub got and the bytes that it sent, for assertions such as "no weights were
fetched".

Requests are counted by method and path of the URL. Bytes are counted by file (`org/name/path`), bodies only, when they
are written to the socket: a client that disconnects may have read less, by what the socket buffers hold.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stats:
    """A copy of the counters.

    `requests` is keyed by `<method> <path>`, `bytes_sent` by `org/name/path`. `leaked_tokens` counts requests to the
    bytes server that carried a token.
    """

    requests: dict[str, int]
    bytes_sent: dict[str, int]
    leaked_tokens: int

    @property
    def total_requests(self) -> int:
        return sum(self.requests.values())

    @property
    def total_bytes_sent(self) -> int:
        return sum(self.bytes_sent.values())

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "total_requests": self.total_requests,
            "total_bytes_sent": self.total_bytes_sent,
        }


class Counters:
    """The counters of one server. Safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._requests: Counter[str] = Counter()
        self._bytes_sent: Counter[str] = Counter()
        self._leaked_tokens = 0

    def add_request(self, method: str, path: str) -> None:
        with self._changed:
            self._requests[f"{method} {path}"] += 1
            self._changed.notify_all()

    def add_bytes(self, file: str, count: int) -> None:
        with self._changed:
            self._bytes_sent[file] += count
            self._changed.notify_all()

    def add_leaked_token(self) -> None:
        with self._changed:
            self._leaked_tokens += 1
            self._changed.notify_all()

    def stats(self) -> Stats:
        with self._changed:
            return Stats(dict(self._requests), dict(self._bytes_sent), self._leaked_tokens)

    def reset(self) -> None:
        with self._changed:
            self._requests.clear()
            self._bytes_sent.clear()
            self._leaked_tokens = 0

    def wait_until(self, condition: Callable[[Stats], bool], timeout_s: float) -> Stats:
        """Wait until the condition is true of the counters, and return them. Raises TimeoutError with their values."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.stats()), timeout_s):
                msg = f"the condition did not become true within {timeout_s} s; the counters are {self.stats()}"
                raise TimeoutError(msg)
            return self.stats()
