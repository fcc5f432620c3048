"""The open connections of a server, and which of them to close for a new one.

A connection is *idle* until the head of a request has arrived, *reading* until its body has, and *busy* until it is
answered. When all connections are taken, or those of one address, one is closed in favour of a new one: of the address
that has the most, and there of the idle or of the reading ones, whichever are more, the one that is it for the longest.
So clients that open connections and leave them, in whatever state, cannot keep out others, whose requests arrive
sooner. A busy connection is closed for a new one only where its client does not read the answer.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, Generic, Protocol, TypeVar

from paddock.network.authority import address_of

_OTHER_FILES: Final = 64
"""File descriptors for everything but connections of clients."""
_UNREAD_S: Final = 5.0
_IPV6_NETWORK_BITS: Final = 64
"""A client chooses the rest of its address as it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the connections of a server.

    | field | |
    |---|---|
    | `connections` | at most so many are open |
    | `per_address` | so many of one client's address |
    | `accepted` | so many are accepted at once |
    | `unread_bytes` | of answers that clients have not read, over all connections; one answer more is always held |
    | `head_s` | within this time the head of a request must arrive |
    | `idle_s` | after an answer, the next request must begin within this time |
    | `discard_s` | after an answer to a request that was not read to its end, the rest is discarded for so long |
    | `flush_s` | within this time a client must have read the rest of its answer, or the next 64 KiB of a longer one |
    """

    connections: int = 1000
    per_address: int = 750
    accepted: int = 64
    unread_bytes: int = 64 * 2**20
    head_s: float = 10.0
    idle_s: float = 30.0
    discard_s: float = 3.0
    flush_s: float = 60.0

    @classmethod
    def of_process(cls) -> ConnectionLimits:
        """The limits that this process's file descriptors suffice for."""
        return cls.for_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    @classmethod
    def for_files(cls, files: int) -> ConnectionLimits:
        usual = cls()
        accepted = max(8, min(usual.accepted, files // 8))
        # Those that were accepted at once are open beside those that are being closed for them.
        connections = max(8, min(usual.connections, files - 2 * accepted - _OTHER_FILES))
        return cls(connections=connections, per_address=connections * 3 // 4, accepted=accepted)


class Connection(Protocol):
    @property
    def address(self) -> str:
        """The client's address."""
        ...

    @property
    def unread_bytes(self) -> int:
        """Size of what was sent to the client and is not on its way yet."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


C = TypeVar("C", bound=Connection)


@dataclass(slots=True)
class _Client(Generic[C]):
    """The connections of one network, and which of them are idle and reading, longest first."""

    network: str
    number: int = 0
    idle: dict[C, None] = field(default_factory=dict)
    reading: dict[C, None] = field(default_factory=dict)

    def closable(self) -> C | None:
        larger = self.idle if len(self.idle) >= len(self.reading) else self.reading
        return next(iter(larger), None)


class ConnectionTable(Generic[C]):
    """The open connections by client, and those whose clients do not read their answers."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._clients: dict[str, _Client[C]] = {}
        self._open: dict[C, _Client[C]] = {}
        self._unread: dict[C, float] = {}

    def add(self, connection: C) -> bool:
        """Add a new connection, if need be in place of another. Returns False if all others are busy."""
        network = network_of(connection.address)
        own = self._clients.get(network)
        if own is not None and own.number >= self._limits.per_address:
            victim = own.closable() or self._longest_unread(own)
        elif len(self._open) >= self._limits.connections:
            victim = self._closable_of_largest() or self._longest_unread()
        else:
            self._insert(network, connection)
            return True
        if victim is None:
            return False
        self._close(victim)
        self._insert(network, connection)
        return True

    def set_idle(self, connection: C) -> None:
        if connection in self._open:
            self._open[connection].reading.pop(connection, None)
            self._open[connection].idle.setdefault(connection)

    def set_reading(self, connection: C) -> None:
        if connection in self._open:
            self._open[connection].idle.pop(connection, None)
            self._open[connection].reading.setdefault(connection)

    def set_busy(self, connection: C) -> None:
        if connection in self._open:
            self._open[connection].idle.pop(connection, None)
            self._open[connection].reading.pop(connection, None)

    def set_unread(self, connection: C) -> None:
        """Note that the client does not read what is sent to it as fast as it is sent.

        If all answers that are not read are too large together, those that are it for the longest are cut off.
        """
        self._unread.setdefault(connection, self._clock())
        total = sum(one.unread_bytes for one in self._unread)
        for other in [one for one in self._unread if one is not connection]:
            if total <= self._limits.unread_bytes:
                break
            total -= other.unread_bytes
            self._close(other)

    def set_read(self, connection: C) -> None:
        self._unread.pop(connection, None)

    def discard(self, connection: C) -> None:
        self._unread.pop(connection, None)
        self.set_busy(connection)
        client = self._open.pop(connection, None)
        if client is not None:
            client.number -= 1
            if not client.number:
                del self._clients[client.network]

    def _insert(self, network: str, connection: C) -> None:
        client = self._clients.setdefault(network, _Client(network))
        client.number += 1
        client.idle[connection] = None
        self._open[connection] = client

    def _close(self, connection: C) -> None:
        self.discard(connection)
        connection.abort()

    def _closable_of_largest(self) -> C | None:
        closable = [client for client in self._clients.values() if client.idle or client.reading]
        return max(closable, key=lambda client: client.number).closable() if closable else None

    def _longest_unread(self, client: _Client[C] | None = None) -> C | None:
        before = self._clock() - _UNREAD_S
        of_client = (one for one in self._unread if client is None or self._open.get(one) is client)
        return next((one for one in of_client if self._unread[one] <= before), None)


def network_of(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 address, of which one client has every address."""
    parsed = address_of(address)
    if not isinstance(parsed, IPv6Address):
        return address if parsed is None else str(parsed)
    return str(IPv6Address(int(parsed) >> _IPV6_NETWORK_BITS << _IPV6_NETWORK_BITS))
