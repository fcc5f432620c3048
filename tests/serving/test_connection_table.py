"""Which connection is closed for a new one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from paddock.serving.http.connection_table import ConnectionLimits, ConnectionTable, network_of
from tests.support.clock import FakeClock

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@dataclass(eq=False)
class FakeConnection:
    address: str
    unread_bytes: int = 0
    is_closed: bool = False

    def abort(self) -> None:
        self.is_closed = True


@dataclass
class Server:
    """A table of at most ten connections, six of one address, and 100 unread bytes."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        limits = ConnectionLimits(connections=10, per_address=6, unread_bytes=100)
        self.table = ConnectionTable[FakeConnection](limits, self.clock)

    def open(self, address: str, number: int = 1) -> list[FakeConnection]:
        made = [FakeConnection(address) for _ in range(number)]
        for connection in made:
            assert self.table.add(connection)
        return made

    def busy(self, address: str, number: int = 1) -> list[FakeConnection]:
        made = self.open(address, number)
        for connection in made:
            self.table.set_busy(connection)
        return made


def closed(connections: list[FakeConnection]) -> list[bool]:
    return [connection.is_closed for connection in connections]


def test_the_oldest_idle_connection_of_the_address_with_the_most_is_closed() -> None:
    server = Server()
    few, many = server.open(A, 4), server.open(B, 6)
    server.open(C)
    assert closed(few) == [False] * 4
    assert closed(many) == [True] + [False] * 5


def test_an_address_has_no_more_than_its_share() -> None:
    server = Server()
    first = server.open(A, 6)
    server.open(A, 3)
    assert closed(first) == [True] * 3 + [False] * 3


def test_an_address_whose_connections_are_all_busy_keeps_out_itself_alone() -> None:
    server = Server()
    server.busy(A, 6)
    assert not server.table.add(FakeConnection(A))
    server.open(B)


def test_of_idle_and_reading_connections_those_that_are_more_give_way() -> None:
    server = Server()
    idle, reading = server.open(A, 2), server.open(A, 4)
    for connection in reading:
        server.table.set_reading(connection)
    server.open(A)
    assert (closed(idle), closed(reading)) == ([False] * 2, [True] + [False] * 3)


def test_a_busy_connection_gives_way_only_if_its_client_does_not_read() -> None:
    server = Server()
    busy = server.busy(A, 6) + server.busy(B, 4)
    server.table.set_unread(busy[3])
    assert not server.table.add(FakeConnection(C))
    server.clock.now_s += 6
    server.busy(C)
    assert [one.is_closed for one in busy].index(True) == 3
    assert not server.table.add(FakeConnection(B))


def test_answers_that_are_not_read_are_cut_off_when_they_are_too_large_together() -> None:
    server = Server()
    slow = server.busy(A, 4)
    for connection in slow:
        connection.unread_bytes = 40
        server.table.set_unread(connection)
    assert closed(slow) == [True, True, False, False]


def test_one_answer_may_be_larger_than_the_bound() -> None:
    server = Server()
    (large,) = server.busy(A)
    large.unread_bytes = 1000
    server.table.set_unread(large)
    assert not large.is_closed
    server.table.set_read(large)
    (other,) = server.busy(A)
    other.unread_bytes = 50
    server.table.set_unread(other)
    assert not large.is_closed


def test_connections_that_ended_leave_nothing_behind() -> None:
    server = Server()
    for _ in range(5):
        for connection in server.open(A, 6) + server.busy(B, 4):
            server.table.set_unread(connection)
            server.table.discard(connection)
            server.table.discard(connection)
            server.table.set_idle(connection)
    assert closed(server.open(A, 6) + server.open(B, 4)) == [False] * 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_a_client_has_all_addresses_of_its_ipv6_network(address: str, network: str) -> None:
    assert network_of(address) == network
