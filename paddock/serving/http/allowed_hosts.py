"""Host names and addresses under which clients may use the server.

A web page whose host name is made to lead to this machine (DNS rebinding) is of the server's own origin for a browser,
which then lets it read every answer. Its requests have the page's name in their `Host` header; so only names that are
known to be this server's are answered.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil

from paddock.network.authority import Authority, address_of, normalized_address

ANY_HOST: Final = "*"
_LOOKED_UP_S: Final = 10.0
"""Time for which this machine's own addresses are remembered."""


def own_addresses() -> frozenset[str]:
    """The addresses of this machine's network interfaces."""
    found = (
        normalized_address(one.address)
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family in {socket.AF_INET, socket.AF_INET6}
    )
    return frozenset(address for address in found if address is not None)


class AllowedHosts:
    """The hosts that requests may name.

    | host | allowed |
    |---|---|
    | `localhost`, the addresses of the loopback network | always |
    | the name and address that the server was told to listen on | always |
    | this machine's own host name | if the server does not listen on the loopback network alone |
    | this machine's own addresses | if the server listens on all of them (`0.0.0.0`, `::`) |
    | hosts of the setting, or all with `*` | always |
    """

    def __init__(
        self,
        listening_on: Iterable[str],
        named: Iterable[str] = (),
        *,
        find_own: Callable[[], frozenset[str]] = own_addresses,
    ) -> None:
        """`listening_on` are the host that was given and the address that was bound, `named` those of the setting."""
        parsed = (Authority.parse(f"[{host}]" if ":" in host else host) for host in listening_on)
        bound = {authority.host for authority in parsed if authority is not None}
        addresses = [address for host in bound if (address := address_of(host)) is not None]
        self._any = ANY_HOST in named
        self._hosts = {"localhost", *bound, *named}
        if not all(address.is_loopback for address in addresses):
            own_name = Authority.parse(socket.gethostname())
            self._hosts |= {own_name.host} if own_name is not None else set()
        self._on_all_addresses = any(address.is_unspecified for address in addresses)
        self._find_own = find_own
        self._own: frozenset[str] = frozenset()
        self._found_at: float | None = None

    def allows(self, host: str) -> bool:
        """Whether requests may name this host, in the form of `Authority.host`."""
        if self._any or host in self._hosts:
            return True
        address = address_of(host)
        if address is None:
            return False
        return address.is_loopback or (self._on_all_addresses and host in self._own_addresses())

    def _own_addresses(self) -> frozenset[str]:
        """This machine's addresses; they may change while the server runs."""
        now = time.monotonic()
        if self._found_at is None or now - self._found_at > _LOOKED_UP_S:
            self._own, self._found_at = self._find_own(), now
        return self._own
