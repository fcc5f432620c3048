"""Match hosts with NO_PROXY: the hosts that are reached without a proxy."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:]+):(?P<port>\d{1,5})")


@lru_cache(maxsize=1024)
def is_excluded(no_proxy: str, host: str, port: int) -> bool:
    """Whether `no_proxy` excludes a host from being reached through a proxy.

    `no_proxy` is a list, separated by commas or spaces:

    - `*`: every host.
    - `example.com`, `.example.com`, `*.example.com`: that host and all below it.
    - `10.1.2.3`, `::1`, `[::1]`: an address. `10.0.0.0/8`, `fd00::/8`: the addresses of a network. A name is not
      resolved: only hosts that are written as an address match.
    - each of them but a network with `:8443` behind it: that port alone. An IPv6 address needs brackets for that.

    Letter case does not matter. Entries of any other form are ignored, as curl and Go do.
    """
    host = host.strip("[]").rstrip(".").lower()
    return any(_matches(entry.lower(), host, port) for entry in re.split(r"[\s,]+", no_proxy) if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    entry = entry.rpartition("://")[2].rstrip("/")
    if entry == "*":
        return True
    if with_port := _HOST_AND_PORT.fullmatch(entry):
        if int(with_port["port"]) != port:
            return False
        entry = with_port["host"]
        if entry == "*":
            return True
    address = _address(host)
    if address is not None:
        try:
            network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
        return address in network
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
