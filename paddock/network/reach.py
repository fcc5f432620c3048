"""Decide which addresses a client may connect to: public ones, and those of the networks where its own server is.

A server that the settings name may redirect to any other. Without a rule, a hostile one makes Paddock send requests to
this machine, to its local network, or to the metadata service of a cloud. An address is of one of four kinds:

| kind | addresses |
|---|---|
| loopback | 127.0.0.0/8, ::1, and those that mean "this host": 0.0.0.0/8, :: |
| link-local | 169.254.0.0/16, with the metadata services, and fe80::/10 |
| private | every other one that the registries do not allot to public hosts, and multicast |
| public | the rest |

An IPv6 address that stands for an IPv4 address is of the kind of that one. What is not public is allowed only if an
address of the server that the settings name was of the same kind when the process first looked it up.

A name is resolved once for each connection, which is then made to the addresses that were checked: it does not matter
what the name leads to a moment later, nor how an address is written (`2130706433`, `0x7f.1`, `017700000001`). A proxy
resolves names itself: through one, what is written as an address is checked, and `localhost`.
"""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from paddock.network.authority import DEFAULT_PORTS

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_THIS_HOST: Final = ipaddress.IPv4Network("0.0.0.0/8")
_AS_IPV4: Final = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))
"""IPv6 networks whose last 32 bits are an IPv4 address: mapped, compatible, and NAT64 (RFC 4291, RFC 6052)."""
_NEVER_PUBLIC: Final = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "fec0::/10", "64:ff9b:1::/48")))
"""Networks that Python counts as global: of protocols (a cloud has its metadata there), the former site-local one, and
the private one of NAT64 (RFC 6890, RFC 3879, RFC 8215)."""


class AddressKind(StrEnum):
    PUBLIC = "public"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    PRIVATE = "private"


class ForbiddenAddress(Exception):
    """A host has no address that may be connected to. `reason` ends a sentence that begins with the host."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(host, reason)
        self.host = host
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.host!r} {self.reason}"


FORBIDDEN_CURE: Final = (
    "check which server answers there; a mirror in a private network is used by setting HF_ENDPOINT to its address in"
    " that network"
)


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses that may be connected to for the server `host`, which the settings name."""

    host: str

    @classmethod
    def at(cls, url: str) -> Reach:
        """That of the server at a URL. Raises ValueError for what is no URL."""
        return cls(_plain(urlsplit(url).hostname or ""))

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host, and return those of its addresses that may be connected to, in the order of preference.

        Raises ForbiddenAddress where there is none among them, and OSError for a host that cannot be resolved.
        """
        host = _plain(host)
        allowed = {AddressKind.PUBLIC, *_kinds_of_server(self.host)}
        found = _resolve(host, port)
        usable = [address for address in found if _kind_of_text(address) in allowed]
        if not usable:
            kind = _kind_of_text(found[0])
            raise ForbiddenAddress(host[:200], f"has a {kind} address, and {self.host} is elsewhere")
        return usable

    def check_written(self, host: str) -> None:
        """Check a host that a proxy will resolve, as far as it is written as an address or is `localhost`. Raises
        ForbiddenAddress."""
        kind = written_kind(host)
        if kind not in {None, AddressKind.PUBLIC, written_kind(self.host)}:
            raise ForbiddenAddress(host[:200], f"is a {kind} address, and {self.host} is elsewhere")

    def check(self, url: str) -> None:
        """Check the host of a URL for a program that connects by itself. Raises as `addresses`, and ValueError for a
        URL without a host."""
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("the URL has no host")
        self.addresses(parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme, 443))


def address_kind(address: IPAddress) -> AddressKind:
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_loopback or address.is_unspecified:
            return AddressKind.LOOPBACK
        for inner in _inner_ipv4(address):
            return address_kind(inner)
    if address.is_loopback or (isinstance(address, ipaddress.IPv4Address) and address in _THIS_HOST):
        return AddressKind.LOOPBACK
    if address.is_link_local:
        return AddressKind.LINK_LOCAL
    if address.is_multicast or not address.is_global or any(address in network for network in _NEVER_PUBLIC):
        return AddressKind.PRIVATE
    return AddressKind.PUBLIC


def written_kind(host: str) -> AddressKind | None:
    """The kind of a host that is written as an address, in any form that a resolver accepts, or is `localhost`; None
    for a name that has to be resolved."""
    host = _plain(host)
    if host == "localhost" or host.endswith(".localhost"):
        return AddressKind.LOOPBACK
    with suppress(ValueError):
        return _kind_of_text(host)
    with suppress(OSError, ValueError):
        return address_kind(ipaddress.IPv4Address(socket.inet_aton(host)))
    return None


def _kind_of_text(address: str) -> AddressKind:
    """Raises ValueError for what is no address in its usual form."""
    return address_kind(ipaddress.ip_address(address.partition("%")[0]))


def _inner_ipv4(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 address that an IPv6 address stands for, if there is one."""
    if address.sixtofour is not None:
        yield address.sixtofour
    elif any(address in network for network in _AS_IPV4):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _plain(host: str) -> str:
    """A host as a resolver reads it: without brackets and a last dot, with compatible characters replaced."""
    return unicodedata.normalize("NFKC", host).strip("[]").rstrip(".").lower()


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError:  # a label that is empty, or too long
        raise socket.gaierror(socket.EAI_NONAME, "the host name is not valid") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@lru_cache(maxsize=256)
def _first_kinds_of(host: str) -> frozenset[AddressKind]:
    return frozenset(map(_kind_of_text, _resolve(host, 0)))


def _kinds_of_server(host: str) -> frozenset[AddressKind]:
    """The kinds of a server's addresses when they were first looked up; none while that fails."""
    try:
        return _first_kinds_of(host)
    except OSError:
        return frozenset()
