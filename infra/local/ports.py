"""Find free ports on the loopback address, and start a service on them.

Another program can take a port between the moment it was found free and the moment it is used, so a start that fails is
repeated on other ports.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial

from infra.local.service import Service, ServiceEnded

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 3


def free_ports(count: int, *, preferred: Sequence[int] = ()) -> list[int]:
    """`count` different free ports: `preferred` (those of the last start, to keep URLs) if all of them are free."""
    with ExitStack() as held:
        if len(preferred) == count:
            try:
                return [_bind(held, port) for port in preferred]
            except OSError:
                held.close()
        return [_bind(held, 0) for _ in range(count)]


def start_on_free_ports(
    launch: Callable[[list[int]], Service],
    ready: Callable[[list[int], Service], bool],
    *,
    count: int = 1,
    preferred: Sequence[int] = (),
    deadline_s: float,
) -> tuple[Service, list[int]]:
    """Start a service with `launch(ports)`, wait until it is `ready(ports, service)`, and return it with its ports.

    A service that ends early is started again on other ports, three attempts in all. Raises ServiceError.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(count, preferred=preferred if attempt == 1 else ())
        service = launch(ports)
        try:
            service.wait_until(partial(ready, ports, service), deadline_s=deadline_s)
        except BaseException as error:
            service.stop()
            # A service that runs but is not ready has got its ports: other ports would not help.
            if isinstance(error, ServiceEnded) and attempt < _ATTEMPTS:
                continue
            raise
        service.is_ready = partial(ready, ports, service)
        return service, ports
    raise AssertionError("unreachable: the last attempt returns or raises")


def accepts_connections(port: int) -> bool:
    """Whether a server listens on the port."""
    with closing(socket.socket()) as sock:
        return sock.connect_ex((LOOPBACK, port)) == 0


def _bind(held: ExitStack, port: int) -> int:
    sock = held.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections of the last run in TIME_WAIT
    sock.bind((LOOPBACK, port))
    number: int = sock.getsockname()[1]
    return number
