"""Which proxy is used for a URL, and which certificates are trusted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from paddock import settings
from paddock.errors import BadSetting, HubUnavailable
from paddock.network import Network
from paddock.network.no_proxy import is_excluded
from paddock.network.proxies import parse_proxy
from tests.support.certificates import make_authority

SECRET = "canaryPASSWORD"

# value, address without credentials, user, password
PROXIES = [
    ("proxy:3128", "http://proxy:3128", None, None),
    ("//proxy:3128", "http://proxy:3128", None, None),
    ("http://proxy:3128/", "http://proxy:3128", None, None),
    ("HTTP://Proxy.Example", "http://proxy.example:80", None, None),
    ("https://proxy", "https://proxy:443", None, None),
    ("10.0.0.1:8080", "http://10.0.0.1:8080", None, None),
    ("http://[::1]:3128", "http://[::1]:3128", None, None),
    (f"http://user:{SECRET}@proxy:3128", "http://proxy:3128", "user", SECRET),
    (f"user:{SECRET}@proxy:3128", "http://proxy:3128", "user", SECRET),
    ("http://dom%5Cuser:p%40ss%2F%23@proxy:3128", "http://proxy:3128", "dom\\user", "p@ss/#"),
    ("http://user:p@ss/#?:x@proxy:3128", "http://proxy:3128", "user", "p@ss/#?:x"),
    ("http://token@proxy:3128", "http://proxy:3128", "token", ""),
    ("http://user:pässword@proxy:3128", "http://proxy:3128", "user", "pässword"),
]


@pytest.mark.parametrize(("value", "address", "user", "password"), PROXIES, ids=[row[0] for row in PROXIES])
def test_an_address_of_a_proxy_is_parsed(value: str, address: str, user: str | None, password: str | None) -> None:
    proxy = parse_proxy(value, "HTTPS_PROXY")
    assert (proxy.address, proxy.user, proxy.password) == (address, user, password)
    assert parse_proxy(proxy.secret_url, "HTTPS_PROXY") == proxy
    errors = [proxy.refusal(407, "hub", HubUnavailable), proxy.unreachable("hub", HubUnavailable)]
    assert SECRET not in f"{proxy!r} {proxy.label} {errors}"


@pytest.mark.parametrize(
    "value",
    [
        f"ftp://user:{SECRET}@proxy:3128",
        f"http://user:{SECRET}@",
        f"http://user:{SECRET}@proxy:port",
        f"http://user:{SECRET}@proxy:99999",
        f"http://user:{SECRET}@two words:3128",
        f"http://user:{SECRET}@proxy:3128/path",
        f"http://user:{SECRET}@[::1",
        f"http:///{SECRET}",
        ":",
    ],
)
def test_what_is_no_address_of_a_proxy_is_refused_without_the_password(value: str) -> None:
    with pytest.raises(BadSetting, match=r"^ALL_PROXY is not the address of a proxy") as caught:
        parse_proxy(value, "ALL_PROXY")
    assert "ALL_PROXY" in caught.value.cure
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "SOCKS5"])
def test_a_socks_proxy_is_refused_by_name_where_it_would_be_used(scheme: str) -> None:
    network = Network(https_proxy="proxy:3128", all_proxy=f"{scheme}://proxy:1080", no_proxy="127.0.0.1")
    assert network.proxy_for("https://hub.example/x") is not None, "ALL_PROXY is not used where HTTPS_PROXY is set"
    assert network.proxy_for("http://127.0.0.1/x") is None
    with pytest.raises(BadSetting, match=f"ALL_PROXY names a {scheme.lower()} proxy") as caught:
        network.proxy_for("http://hub.example/x")
    assert "ALL_PROXY" in caught.value.cure


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "a:1"}, None, "http://a:1"),
        ({"HTTP_PROXY": "a:1"}, "http://a:1", None),
        ({"ALL_PROXY": "a:1"}, "http://a:1", "http://a:1"),
        ({"all_proxy": "a:1", "https_proxy": "b:2"}, "http://a:1", "http://b:2"),
        ({"HTTPS_PROXY": "a:1", "https_proxy": "b:2"}, None, "http://b:2"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": " a:1 "}, "http://a:1", "http://a:1"),
        ({"ALL_PROXY": "a:1", "NO_PROXY": "*"}, None, None),
        ({"ALL_PROXY": "a:1", "no_proxy": "other, hub.example:443"}, "http://a:1", None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_variables_name_the_proxy_for_a_scheme(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], http: str | None, https: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    network = settings.load().network
    found = [network.proxy_for(f"{scheme}://hub.example/x") for scheme in ("http", "https")]
    assert [proxy.address if proxy else None for proxy in found] == [http, https]


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("hub.example", "https://hub.example/", True),
        ("HUB.example", "https://hub.EXAMPLE./", True),
        ("hub.example", "https://cdn.hub.example/", True),
        (".hub.example", "https://hub.example/", True),
        (".hub.example", "https://cdn.hub.example/", True),
        ("*.hub.example", "https://cdn.hub.example/", True),
        ("hub.example", "https://notthehub.example/", False),
        ("hub.example", "https://hub.example.org/", False),
        ("hub.example:443", "https://hub.example/", True),
        ("hub.example:8443", "https://hub.example/", False),
        ("hub.example:8443", "https://hub.example:8443/", True),
        ("a,  b\thub.example", "https://hub.example/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3/8", "https://10.200.0.1/", True),
        ("10.0.0.0/8", "https://ten.example/", False),
        ("127.0.0.1", "http://127.0.0.1:8080/", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080/", True),
        ("127.0.0.1:8081", "http://127.0.0.1:8080/", False),
        ("::1", "http://[::1]:8080/", True),
        ("[::1]", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8081", "http://[::1]:8080/", False),
        ("fd00::/8", "http://[fd12::1]/", True),
        ("fd00::/8", "http://10.0.0.1/", False),
        ("1", "http://10.0.0.1/", False),
        ("*", "https://hub.example/", True),
        ("other, *", "https://hub.example/", True),
        ("https://hub.example/", "https://hub.example/", True),
        ("10.0.0.0/99, hub.example:port, ., :, [, *.", "https://hub.example/", False),
        ("", "https://hub.example/", False),
    ],
)
def test_no_proxy_names_hosts_ports_and_networks(no_proxy: str, url: str, is_direct: bool) -> None:
    assert (Network(all_proxy="proxy:3128", no_proxy=no_proxy).proxy_for(url) is None) is is_direct


def test_any_text_is_a_no_proxy() -> None:
    for text in ("\x00", "[[]]", "::::", "1.2.3.4/-1", "a:" + "9" * 5, "é.example", "/", "%"):
        assert not is_excluded(text, "hub.example", 443)


def test_no_repr_has_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy:3128")
    configured = settings.load()
    assert SECRET not in f"{configured!r} {configured.network!r} {asdict(configured)}"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read: No such file"),
        (b"", "has no certificates in PEM format"),
        (b"\x30\x82\x01\x0a", "has no certificates in PEM format"),
        (b"-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n", "has no certificates in PEM"),
    ],
    ids=["missing", "empty", "DER", "no certificate"],
)
def test_certificates_that_cannot_be_used_are_named_with_their_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: bytes | None, message: str
) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "our.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(variable, str(path))
    network = settings.load().network
    with pytest.raises(BadSetting, match=f"{variable} is not usable: {path} {message}") as caught:
        network.ssl_context()
    assert variable in caught.value.cure


def test_the_first_setting_of_certificates_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert settings.load().network.ca_path is None
    assert settings.load().network.ssl_context().get_ca_certs(), "the system's, or certifi's"
    ca = make_authority(tmp_path).ca
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert settings.load().network.ca_path == tmp_path
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
    assert settings.load().network.ca_setting == "REQUESTS_CA_BUNDLE"
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    network = settings.load().network
    assert network.ca_setting == "SSL_CERT_FILE"
    (trusted,) = network.ssl_context().get_ca_certs()
    assert "Authority of the tests" in str(trusted["subject"])
    assert network.ca_bundle() == str(ca)


def test_a_network_is_the_same_after_a_round_trip_through_json(tmp_path: Path) -> None:
    for network in (Network(), Network("a:1", None, f"u:{SECRET}@b:2", "c", tmp_path / "ca.pem", "AWS_CA_BUNDLE")):
        assert Network.from_json(json.loads(json.dumps(network.to_json()))) == network


def test_another_program_gets_the_rule_as_variables(tmp_path: Path) -> None:
    ca = make_authority(tmp_path).ca
    network = Network(all_proxy=f"user:{SECRET}@proxy:1", no_proxy="hub.example:8443", ca_path=ca)
    proxied = {"HTTP_PROXY": f"http://user:{SECRET}@proxy:1", "HTTPS_PROXY": f"http://user:{SECRET}@proxy:1"}
    assert network.environment() == {**proxied, "NO_PROXY": "hub.example:8443", "SSL_CERT_FILE": str(ca)}
    assert network.environment("https://hub.example/x") == {**proxied, "SSL_CERT_FILE": str(ca)}
    assert network.environment("https://hub.example:8443/x") == {"SSL_CERT_FILE": str(ca)}
