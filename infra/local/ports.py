"""Free ports on the loopback address.

A port is free when it was asked for, not when it is used: another program can take it in between. Whoever starts a
program on one tries again with others when the start fails.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(count: int, *, wanted: Sequence[int] = ()) -> list[int]:
    """`count` different ports. `wanted` (those of the last start, so that addresses stay) when all of them are free."""
    with ExitStack() as held:
        if len(wanted) == count:
            try:
                return [_bind(held, port) for port in wanted]
            except OSError:
                held.close()
        return [_bind(held, 0) for _ in range(count)]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _bind(held: ExitStack, port: int) -> int:
    sock = held.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run in TIME_WAIT do not count
    sock.bind((LOOPBACK, port))
    number: int = sock.getsockname()[1]
    return number
