"""What the local Hub was asked for and what it sent, so that a test can say "no byte of the model was fetched".

Requests are counted by method and path of the address. Bytes are counted by file (`org/name/path`), bodies only, when
they go to the socket: a client that hangs up may have read less, by what the sockets hold.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stats:
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


class Ledger:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._requests: Counter[str] = Counter()
        self._bytes_sent: Counter[str] = Counter()
        self._leaked_tokens = 0

    def asked(self, method: str, path: str) -> None:
        with self._changed:
            self._requests[f"{method} {path}"] += 1
            self._changed.notify_all()

    def sent(self, file: str, count: int) -> None:
        with self._changed:
            self._bytes_sent[file] += count
            self._changed.notify_all()

    def leaked(self) -> None:
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

    def wait_until(self, holds: Callable[[Stats], bool], timeout_s: float) -> Stats:
        """Waits until the counts are as wanted, and returns them; a TimeoutError shows what they are instead."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.stats()), timeout_s):
                msg = f"not so within {timeout_s} s; the counts are {self.stats()}"
                raise TimeoutError(msg)
            return self.stats()
