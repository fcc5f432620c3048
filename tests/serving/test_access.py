"""Which hosts and origins a server answers: no page of another origin, under whatever name it reaches this machine."""

from __future__ import annotations

import asyncio
import socket

import httpx
import psutil
import pytest
from starlette.responses import PlainTextResponse

from paddock.network.authority import Authority
from paddock.serving.http.access import AccessFilter
from paddock.serving.http.allowed_hosts import AllowedHosts, own_addresses

EVIL = "https://evil.example"
CHAT = "https://chat.example"
OWN = "10.1.2.3"


def answer(headers: list[tuple[str, str]], *, hosts: AllowedHosts, origins: tuple[str, ...] = ()) -> httpx.Response:
    """The answer to a request with these headers, of a server that says "answered" to whatever reaches it."""
    app = AccessFilter(PlainTextResponse("answered"), hosts=hosts, origins=origins)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/any/path", headers=headers)

    return asyncio.run(send())


def status(headers: dict[str, str], *, hosts: AllowedHosts | None = None, origins: tuple[str, ...] = ()) -> int:
    given = {"host": "127.0.0.1:8080", **headers}
    return answer(list(given.items()), hosts=hosts or listening("127.0.0.1"), origins=origins).status_code


def listening(*on: str, named: tuple[str, ...] = ()) -> AllowedHosts:
    return AllowedHosts(on, named, find_own=lambda: frozenset({OWN, "fd00::1"}))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8080", "LOCALHOST:1", "localhost.", "localhost.:80", "localhost:"),
        *("127.0.0.1", "127.0.0.1:8080", "127.9.9.9:65535"),
        *("[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:80"),
    ],
)
@pytest.mark.parametrize("on", ["127.0.0.1", "::1", "192.0.2.7", "0.0.0.0", "::"])
def test_every_server_is_reached_by_names_of_the_loopback_network(on: str, host: str) -> None:
    assert status({"host": host}, hosts=listening(on, on)) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("rebound.example", "rebound.example:8080", "localhost.rebound.example", "127.0.0.1.rebound.example"),
        *("localhost-rebound", "a.localhost", "0.0.0.0", "192.0.2.8", OWN, "[::2]", "[fd00::1]", "xn--lcalhost-q3a"),
    ],
)
def test_a_server_on_the_loopback_address_is_reached_by_no_other_name(host: str) -> None:
    assert status({"host": host}) == 403


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", ":80", "localhost:80:80", "localhost:x", "localhost:-1", "localhost:65536", "localhost:080000"),
        *("localhost/", "localhost@evil.example", "user@localhost", "localhost, evil.example", "http://localhost"),
        *("[::1", "::1", "[localhost]", "[]", "a..b", ".", "localhost..", "localhost\\", "loc%61lhost", "lo\tcalhost"),
        *("[::1]evil.example", "[::1]:80evil.example", "٣", "a" * 300, ".".join(["a" * 64, "example"])),
    ],
)
def test_what_is_no_host_is_a_bad_request(host: str) -> None:
    assert Authority.parse(host) is None
    if host.isascii():
        assert status({"host": host}) == 400


@pytest.mark.parametrize(
    ("on", "host", "expected"),
    [
        (("192.0.2.7", "192.0.2.7"), "192.0.2.7:8080", 200),
        (("192.0.2.7", "192.0.2.7"), OWN, 403),
        (("gpu-7.example", "192.0.2.7"), "gpu-7.example", 200),
        (("gpu-7.example", "192.0.2.7"), "GPU-7.example.:8080", 200),
        (("gpu-7.example", "192.0.2.7"), "192.0.2.7", 200),
        (("0.0.0.0", "0.0.0.0"), OWN, 200),
        (("0.0.0.0", "0.0.0.0"), "0.0.0.0:8080", 200),
        (("0.0.0.0", "0.0.0.0"), "192.0.2.7", 403),
        (("::", "::"), f"{OWN}:8080", 200),
        (("::", "::"), f"[::ffff:{OWN}]", 200),
        (("::", "::"), "[fd00:0::1]:8080", 200),
        (("::", "::"), "rebound.example", 403),
    ],
    ids=str,
)
def test_a_server_is_reached_by_what_it_listens_on(on: tuple[str, ...], host: str, expected: int) -> None:
    assert status({"host": host}, hosts=listening(*on)) == expected


def test_other_machines_may_use_the_host_name_of_this_one() -> None:
    name = socket.gethostname()
    assert listening("0.0.0.0").allows(name.lower())
    assert listening("192.0.2.7").allows(name.lower())
    assert not listening("127.0.0.1").allows(name.lower())
    assert not listening("0.0.0.0").allows(f"{name.lower()}.rebound.example")


def test_the_addresses_of_this_machine_are_those_of_its_interfaces() -> None:
    found = {one.address.partition("%")[0] for every in psutil.net_if_addrs().values() for one in every}
    assert own_addresses() <= found
    assert "127.0.0.1" in own_addresses()


def test_a_host_of_the_setting_is_answered_and_the_refusal_names_the_setting() -> None:
    refused = answer([("host", "chat.example")], hosts=listening("127.0.0.1"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
    assert "PADDOCK_SERVE_HOSTS" in refused.json()["error"]["message"]
    assert status({"host": "chat.example:8443"}, hosts=listening("127.0.0.1", named=("chat.example",))) == 200
    assert status({"host": "sub.chat.example"}, hosts=listening("127.0.0.1", named=("chat.example",))) == 403
    assert status({"host": "rebound.example"}, hosts=listening("127.0.0.1", named=("*",))) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:8081"},
        {"origin": "http://localhost:8080"},
        {"origin": "http://127.0.0.1:8080.evil.example"},
        {"origin": "http://evil.example@127.0.0.1:8080"},
        {"origin": "file://"},
        {"origin": "chrome-extension://127.0.0.1:8080"},
        {"origin": f"http://127.0.0.1:8080 {EVIL}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "Cross-Site "},
        {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "cross-site"},
        {"origin": f"{CHAT}.evil.example", "sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("origins", [(), (CHAT,)], ids=["no-setting", "another"])
def test_a_page_of_another_origin_is_refused(headers: dict[str, str], origins: tuple[str, ...]) -> None:
    refused = answer(list({"host": "127.0.0.1:8080", **headers}.items()), hosts=listening("127.0.0.1"), origins=origins)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "PADDOCK_CORS_ORIGINS" in refused.json()["error"]["message"]
    assert not [name for name in refused.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-mode": "cors"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8080"},
        {"host": "localhost", "origin": "http://localhost"},
        {"host": "localhost:80", "origin": "http://localhost"},
        {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
    ],
    ids=str,
)
def test_programs_and_pages_of_the_server_itself_are_answered(headers: dict[str, str]) -> None:
    assert status(headers) == 200


@pytest.mark.parametrize(
    ("origins", "headers", "expected"),
    [
        ((CHAT,), {"origin": CHAT, "sec-fetch-site": "cross-site"}, 200),
        ((CHAT,), {"origin": CHAT}, 200),
        ((CHAT,), {"origin": "http://chat.example"}, 403),
        (("*",), {"origin": EVIL, "sec-fetch-site": "cross-site"}, 200),
        (("*",), {"origin": "null"}, 200),
        (("*",), {"host": "rebound.example", "origin": "http://rebound.example"}, 403),
        ((CHAT,), {"host": "rebound.example", "origin": CHAT}, 403),
    ],
    ids=str,
)
def test_the_setting_of_cors_decides_which_origins_are_answered(
    origins: tuple[str, ...], headers: dict[str, str], expected: int
) -> None:
    assert status(headers, origins=origins) == expected


def test_a_page_that_a_proxy_serves_from_the_same_host_is_answered() -> None:
    """The proxy terminates TLS and keeps the Host header."""
    hosts = listening("127.0.0.1", named=("chat.example",))
    assert status({"host": "chat.example", "origin": CHAT, "sec-fetch-site": "same-origin"}, hosts=hosts) == 200
    assert status({"host": "chat.example:8443", "origin": "https://chat.example:8443"}, hosts=hosts) == 200
    assert status({"host": "chat.example", "origin": EVIL}, hosts=hosts) == 403
