"""End what takes too long, from one thread for all that runs at once: a timer for each costs a thread each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Deadlines:
    """Calls a function for each block that is not left in time. Its thread begins with the first block, and ends at
    `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expiring: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def within(self, limit_s: float, on_expired: Callable[[], None]) -> Iterator[None]:
        """Call `on_expired` in the other thread, once, if the block is not left within `limit_s`."""
        deadline, key = time.monotonic() + limit_s, object()
        with self._changed:
            self._expiring[key] = deadline, on_expired
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="paddock-deadlines", daemon=True)
                self._thread.start()
            elif deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._expiring.pop(key, None)

    def close(self) -> None:
        """End the thread. No function is called after that."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for key, (deadline, on_expired) in list(self._expiring.items()):
                    if deadline <= now:
                        del self._expiring[key]
                        with suppress(Exception):  # else no other block would expire
                            on_expired()
                self._wakes_at = min((deadline for deadline, _ in self._expiring.values()), default=float("inf"))
                self._changed.wait(self._wakes_at - now if self._expiring else None)
