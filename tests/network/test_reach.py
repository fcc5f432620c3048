"""A server cannot lead a client into the networks of this machine, unless it is there itself."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from paddock.network.reach import AddressKind, ForbiddenAddress, Reach, written_kind

LOOPBACK, LINK_LOCAL, PRIVATE = AddressKind.LOOPBACK, AddressKind.LINK_LOCAL, AddressKind.PRIVATE
PUBLIC_IP, OTHER_IP = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NOT_PUBLIC: dict[str, AddressKind] = {
    "127.0.0.1": LOOPBACK,
    "127.255.255.254": LOOPBACK,
    "127.1": LOOPBACK,
    "2130706433": LOOPBACK,
    "0x7f000001": LOOPBACK,
    "0x7f.0.0.1": LOOPBACK,
    "0177.0.0.1": LOOPBACK,
    "017700000001": LOOPBACK,
    "0": LOOPBACK,
    "0.0.0.0": LOOPBACK,
    "0.1.2.3": LOOPBACK,
    "localhost": LOOPBACK,
    "LocalHost.": LOOPBACK,
    "①②⑦.⓪.⓪.①": LOOPBACK,
    "１２７.０.０.１": LOOPBACK,
    "::1": LOOPBACK,
    "[::1]": LOOPBACK,
    "0:0:0:0:0:0:0:1": LOOPBACK,
    "::": LOOPBACK,
    "::ffff:127.0.0.1": LOOPBACK,
    "::ffff:7f00:1": LOOPBACK,
    "::127.0.0.1": LOOPBACK,
    "64:ff9b::127.0.0.1": LOOPBACK,
    "2002:7f00:1::": LOOPBACK,
    "169.254.169.254": LINK_LOCAL,
    "2852039166": LINK_LOCAL,
    "0xa9fea9fe": LINK_LOCAL,
    "0251.0376.0251.0376": LINK_LOCAL,
    "169.254.43518": LINK_LOCAL,
    "::ffff:169.254.169.254": LINK_LOCAL,
    "fe80::1": LINK_LOCAL,
    "fe80::1%eth0": LINK_LOCAL,
    "10.0.0.1": PRIVATE,
    "10.1": PRIVATE,
    "172.16.0.1": PRIVATE,
    "172.31.255.255": PRIVATE,
    "192.168.1.1": PRIVATE,
    "3232235777": PRIVATE,
    "100.64.0.1": PRIVATE,
    "100.100.100.200": PRIVATE,
    "192.0.0.192": PRIVATE,
    "198.18.0.1": PRIVATE,
    "224.0.0.1": PRIVATE,
    "240.0.0.1": PRIVATE,
    "255.255.255.255": PRIVATE,
    "fd00:ec2::254": PRIVATE,
    "fc00::1": PRIVATE,
    "fec0::1": PRIVATE,
    "ff02::1": PRIVATE,
    "2001:db8::1": PRIVATE,
    "64:ff9b:1::1": PRIVATE,
    "::ffff:10.0.0.1": PRIVATE,
    "2002:a00:1::": PRIVATE,
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Iterator[Sequence[str]]]:
    """Names that resolve to the addresses of the iterator's next element; anything else resolves as it does."""
    known: dict[str, Iterator[Sequence[str]]] = {}
    real = socket.getaddrinfo

    def resolve(host: str, port: Any, *args: Any, **options: Any) -> Any:
        if host not in known:
            return real(host, port, *args, **options)
        found = [real(address, port, *args, **options) for address in next(known[host])]
        return list(itertools.chain.from_iterable(found))

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.mark.parametrize(("host", "kind"), NOT_PUBLIC.items(), ids=NOT_PUBLIC)
def test_a_public_server_leads_nowhere_but_to_public_addresses_however_they_are_written(
    host: str, kind: AddressKind
) -> None:
    reach = Reach.at(f"https://{PUBLIC_IP}/models")
    with pytest.raises(ForbiddenAddress, match=kind):
        reach.addresses(host, 80)
    with pytest.raises(ForbiddenAddress, match=kind):
        reach.check_written(host)
    assert written_kind(host) is kind


@pytest.mark.parametrize(
    "host", [PUBLIC_IP, OTHER_IP, f"::ffff:{PUBLIC_IP}", f"64:ff9b::{PUBLIC_IP}", "1.1", "8.8.8.8"]
)
def test_a_public_address_is_reached_from_everywhere(host: str) -> None:
    for server in (f"https://{PUBLIC_IP}", "http://127.0.0.1:1", "http://10.0.0.1"):
        assert Reach.at(server).addresses(host, 443)
        Reach.at(server).check_written(host)


SERVERS = {"http://127.0.0.1:8000": LOOPBACK, "http://[fe80::7]": LINK_LOCAL, "http://10.1.2.3/hub": PRIVATE}


@pytest.mark.parametrize(("server", "own"), SERVERS.items(), ids=SERVERS)
def test_a_server_leads_to_other_addresses_of_its_own_kind_alone(server: str, own: AddressKind) -> None:
    reach = Reach.at(server)
    for host, kind in NOT_PUBLIC.items():
        if kind is own:
            assert reach.addresses(host, 80)
            reach.check_written(host)
            continue
        with pytest.raises(ForbiddenAddress):
            reach.addresses(host, 80)
        with pytest.raises(ForbiddenAddress):
            reach.check_written(host)


def test_of_a_name_with_several_addresses_only_the_public_ones_are_connected_to(
    names: dict[str, Iterator[Sequence[str]]],
) -> None:
    names["mixed.test"] = itertools.repeat(["127.0.0.1", PUBLIC_IP, "::ffff:10.0.0.1", OTHER_IP])
    assert Reach.at(f"https://{PUBLIC_IP}").addresses("mixed.test", 443) == [PUBLIC_IP, OTHER_IP]


def test_a_name_that_leads_elsewhere_a_moment_later_is_connected_to_where_it_was_checked(
    names: dict[str, Iterator[Sequence[str]]],
) -> None:
    reach = Reach.at(f"https://{PUBLIC_IP}")
    names["rebound.test"] = iter([[PUBLIC_IP], ["127.0.0.1"], ["169.254.169.254"]])
    assert reach.addresses("rebound.test", 443) == [PUBLIC_IP]
    for kind in (LOOPBACK, LINK_LOCAL):
        with pytest.raises(ForbiddenAddress, match=kind):
            reach.addresses("rebound.test", 443)


def test_a_server_that_was_public_first_is_not_followed_into_this_machine(
    names: dict[str, Iterator[Sequence[str]]],
) -> None:
    names["hub-that-moves.test"] = iter([[PUBLIC_IP], [PUBLIC_IP], ["127.0.0.1"]])
    reach = Reach.at("https://hub-that-moves.test")
    assert reach.addresses("hub-that-moves.test", 443) == [PUBLIC_IP]
    with pytest.raises(ForbiddenAddress, match="loopback"):
        reach.addresses("HUB-that-moves.test.", 443)


def test_a_server_that_cannot_be_resolved_leads_nowhere_but_to_public_addresses() -> None:
    reach = Reach.at("https://hub.invalid")
    assert reach.addresses(PUBLIC_IP, 443) == [PUBLIC_IP]
    with pytest.raises(ForbiddenAddress):
        reach.addresses("127.0.0.1", 443)


@pytest.mark.parametrize("host", ["", ".", "a..b", "x" * 70, "x" * 300, "[", "\x00", "a b", "ü" * 64], ids=ascii)
def test_what_is_no_host_is_an_error_of_the_network(host: str) -> None:
    with pytest.raises((OSError, ForbiddenAddress)):
        Reach.at(f"https://{PUBLIC_IP}").addresses(host, 80)
    Reach.at("http://127.0.0.1").check_written(host)
