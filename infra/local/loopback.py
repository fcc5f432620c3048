"""Make HTTP clients of servers on the loopback address."""

from __future__ import annotations

import httpx


def loopback_client(*, timeout_s: float = 5, base_url: str = "") -> httpx.Client:
    """A client without a proxy, for `http` only.

    It has no certificates: loading them takes 70 ms of processor time, and whoever waits for a server makes a client
    every 100 ms.
    """
    return httpx.Client(base_url=base_url, trust_env=False, timeout=timeout_s, verify=False)  # noqa: S501 plain HTTP
