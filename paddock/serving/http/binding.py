"""Listening address of the server: validation and the listening socket."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from paddock.errors import BadSetting, NoPermission

BACKLOG: Final = 4096
"""So many connections wait in the kernel until they are accepted; it forgets others, and their clients try again after
a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Host, port (0 for any free one) and API key of the server.

    `hosts` are further names and addresses under which clients may use it, and `cors_origins` the origins of web pages
    that may; `*` is any.

    Raises BadSetting if `host` is reachable from other machines and there is no API key.
    """

    host: str
    port: int
    api_key: str | None = field(repr=False)
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.api_key is None and not _is_loopback(self.host):
            raise BadSetting(
                f"{self.host} can be reached from other machines, but no API key is set",
                cure="set PADDOCK_API_KEY, or listen on 127.0.0.1",
            )

    def listen(self) -> socket.socket:
        """Open a non-blocking listening socket. Raises NoPermission, BadSetting."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
        except (socket.gaierror, OSError) as error:
            raise BadSetting(
                f"{self.host} is not an address to listen on: {error.strerror}", cure="choose another --host"
            ) from None
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            error_type = NoPermission if isinstance(error, PermissionError) else BadSetting
            raise error_type(
                f"cannot listen on {self.host}:{self.port}: {error.strerror}",
                cure="choose another --port (0: any free one)",
            ) from None
        listener.setblocking(False)
        return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
