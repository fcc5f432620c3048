"""Free ports on the loopback address, and the start of a service on them.

A port is free when it was asked for, not when it is used: another program can take it in between. So a start that fails
is tried again on other ports.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial

from infra.local.service import Service, ServiceEnded

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 3


def free_ports(count: int, *, wanted: Sequence[int] = ()) -> list[int]:
    """`count` different ports. `wanted` (those of the last start, so that addresses stay) when all of them are free."""
    with ExitStack() as held:
        if len(wanted) == count:
            try:
                return [_bind(held, port) for port in wanted]
            except OSError:
                held.close()
        return [_bind(held, 0) for _ in range(count)]


def start_on_free_ports(
    launch: Callable[[list[int]], Service],
    ready: Callable[[list[int], Service], bool],
    *,
    count: int = 1,
    wanted: Sequence[int] = (),
    deadline_s: float,
) -> tuple[Service, list[int]]:
    """The service that `launch` makes on `count` ports, when it is `ready`. Raises the last attempt's ServiceError."""
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(count, wanted=wanted if attempt == 1 else ())
        service = launch(ports)
        try:
            service.wait_until(partial(ready, ports, service), deadline_s=deadline_s)
        except BaseException as error:
            service.stop()
            # One that runs, and only is not ready, has its ports.
            if isinstance(error, ServiceEnded) and attempt < _ATTEMPTS:
                continue
            raise
        return service, ports
    raise AssertionError("unreachable: the last attempt returns or raises")


def answers(port: int) -> bool:
    """Whether something listens there."""
    with closing(socket.socket()) as sock:
        return sock.connect_ex((LOOPBACK, port)) == 0


def _bind(held: ExitStack, port: int) -> int:
    sock = held.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run in TIME_WAIT do not count
    sock.bind((LOOPBACK, port))
    number: int = sock.getsockname()[1]
    return number
