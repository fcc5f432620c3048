"""Attack an HTTP server from a process of its own: `python -m tests.support.flood PORT CONNECTIONS BODIES`.

Opens so many connections and leaves them: a third sends nothing, a third half a head, a third half a body. Then sends
so many endless bodies at once, for ten seconds. Prints a line after each of the two.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time
from contextlib import suppress

from tests.support.raw_http import connect, get, post, post_chunked

_CHUNKS = (b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 64
_SECONDS = 10.0


def main() -> None:
    port, connections, bodies = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    left = list[socket.socket]()
    for number in range(connections):
        left.append(connect(port, timeout_s=60))
        with suppress(ConnectionError):
            left[-1].sendall((b"", get(b"/v1/models")[:-9], post()[:-9])[number % 3])
    print("opened", flush=True)
    selector = selectors.DefaultSelector()
    for _ in range(bodies):
        client = connect(port, timeout_s=60)
        client.sendall(post_chunked(body=b""))
        client.setblocking(False)
        selector.register(client, selectors.EVENT_WRITE, [0])
    sent_bytes, end = 0, time.monotonic() + _SECONDS
    while time.monotonic() < end and selector.get_map():
        for key, _ in selector.select(1):
            offset: list[int] = key.data
            client = key.fileobj  # type: ignore[assignment]  # a socket was registered
            assert isinstance(client, socket.socket)
            try:
                count = client.send(memoryview(_CHUNKS)[offset[0] % len(_CHUNKS) :])
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(client)
                client.close()
                continue
            offset[0] += count
            sent_bytes += count
    print("sent", sent_bytes >> 20, "MiB;", len(selector.get_map()), "are not ended", flush=True)


if __name__ == "__main__":
    main()
