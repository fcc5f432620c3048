"""Hosts and ports as they stand in a `Host` header, an origin or a setting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

_FORM: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})(?:%[0-9A-Za-z._~%-]{1,40})?\]|(?P<name>[A-Za-z0-9_.-]{1,255}))"
    r"(?::(?P<port>[0-9]{0,5}))?",
    re.ASCII,
)
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_MAX_PORT: Final = 65_535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Authority:
    """A host, and a port where one is given.

    `host` is a name in lower case without a dot at its end, or an address in its shortest form without brackets; an
    IPv4 address that is written as an IPv6 address is the IPv4 address.
    """

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `host`, `host:port` or `[v6]:port`; None for anything else. Names are not resolved."""
        match = _FORM.fullmatch(text)
        if match is None or int(match["port"] or 0) > _MAX_PORT:
            return None
        host = normalized_address(match["v6"]) if match["v6"] else _normalized_host(match["name"])
        return None if host is None else cls(host, int(match["port"]) if match["port"] else None)

    def is_that_of(self, origin: str) -> bool:
        """Whether a web page of this origin (`https://chat.example:8443`) was loaded from this host and port."""
        scheme, separator, rest = origin.partition("://")
        other, default = Authority.parse(rest), DEFAULT_PORTS.get(scheme)
        if not separator or other is None or default is None:
            return False
        return (other.host, other.port or default) == (self.host, self.port or default)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is; None for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def normalized_address(host: str) -> str | None:
    """An address in its shortest form, without the zone of a link; None for a name."""
    address = address_of(host)
    return None if address is None else str(address)


def _normalized_host(text: str) -> str | None:
    address = normalized_address(text)
    if address is not None:
        return address
    name = text.removesuffix(".").lower()
    return name if all(_LABEL.fullmatch(label) for label in name.split(".")) else None
