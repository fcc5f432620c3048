"""Hold connections of an HTTP server open: `python -m tests.support.held_open PORT CONNECTIONS BODIES BYTES`.

Opens so many connections: a third sends nothing, a third half a head, a third half a small body. Then so many bodies,
each of so many bytes less the last. For fifteen seconds, connections that the server closes are opened again, at most a
hundred a second. Prints a line when all were opened, and one at the end.
"""

from __future__ import annotations

import resource
import selectors
import sys
import time
from contextlib import suppress

from tests.support.raw_http import connect, get, post

_SECONDS = 15.0
_AGAIN = 100
_HALVES = (b"", get(b"/v1/models")[:-9], post()[:-9])


class _Held:
    """A connection, and what it has still to send."""

    def __init__(self, port: int, content: bytes) -> None:
        self.content = content
        self.socket = connect(port, timeout_s=60)
        self.socket.setblocking(False)
        self.left = memoryview(content)

    def fileno(self) -> int:
        return self.socket.fileno()

    def exchange(self) -> bool:
        """Send and receive what is possible at once. Returns whether the server has closed the connection."""
        try:
            with suppress(BlockingIOError):
                while self.left:
                    self.left = self.left[self.socket.send(self.left) :]
            with suppress(BlockingIOError):
                while self.socket.recv(1 << 16):
                    pass
                return True
        except OSError:
            return True
        return False


def main() -> None:
    port, connections, bodies, size = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    large = post(b"Content-Length: %d" % size, body=b"a" * (size - 1), has_length=False)
    contents = [_HALVES[number % 3] for number in range(connections)] + [large] * bodies
    held = [_Held(port, content) for content in contents]
    print("opened", len(held), flush=True)
    end, opened, closed = time.monotonic() + _SECONDS, len(held), list[_Held]()
    while time.monotonic() < end:
        with selectors.DefaultSelector() as selector:
            for one in held:
                selector.register(one, selectors.EVENT_READ | (selectors.EVENT_WRITE if one.left else 0))
            selector.select(0.2)
        for one in held:
            if one.exchange():
                one.socket.close()
                if one.content in _HALVES:
                    closed.append(one)
        again = [_Held(port, one.content) for one in closed[:_AGAIN]]
        held = [one for one in held if one.fileno() >= 0] + again
        closed = closed[_AGAIN:]
        opened += len(again)
        time.sleep(1)
    print("opened in all", opened, flush=True)


if __name__ == "__main__":
    main()
