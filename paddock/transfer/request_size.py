"""Choose how many bytes a range request is for: more, where the server takes long to answer a request.

A request that takes 0.4 s before its first byte costs as much as many bytes. So spans grow with that time, and the
window in front of the reader with them. Of a short file, every connection gets a part.
"""

from __future__ import annotations

_SLOW_S = 0.2
_SECONDS_PER_SPAN = 0.1


class RequestSize:
    """The length of the next spans, `bytes`, and of the window, `window_bytes`: at first those of the arguments.

    The shortest time that any request took counts: other requests may have waited for the line, or for a busy server.
    """

    def __init__(self, span_bytes: int, window_bytes: int, *, max_window_bytes: int) -> None:
        self._span_bytes = self.bytes = span_bytes
        self._min_window_bytes = self.window_bytes = window_bytes
        self._max_window_bytes = max(window_bytes, max_window_bytes)
        self._request_s = float("inf")
        self._part_bytes: int | None = None  # what one connection gets of the file

    @property
    def can_grow(self) -> bool:
        return self._max_window_bytes > self._min_window_bytes

    def measured(self, request_s: float, *, left_bytes: int, connections: int) -> None:
        """A request took `request_s` until its first byte; `left_bytes` of the file are not requested yet."""
        self._request_s = min(self._request_s, request_s)
        if self._part_bytes is None:
            self._part_bytes = -(-left_bytes // connections)
        if self._request_s < _SLOW_S or not self.can_grow:
            self.bytes, self.window_bytes = self._span_bytes, self._min_window_bytes
            return
        longest = min(self._request_s / _SECONDS_PER_SPAN * self._span_bytes, self._max_window_bytes / connections)
        self.bytes = max(self._span_bytes, min(int(longest), self._part_bytes))
        self.window_bytes = max(self._min_window_bytes, min(self._max_window_bytes, self.bytes * connections))
