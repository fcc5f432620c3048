"""Every client of the process uses the same proxies and certificates: for the listing, the bytes and S3."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.s3 import S3Server
from paddock.errors import (
    BadSetting,
    HubRefused,
    HubUnavailable,
    PaddockError,
    ProxyRefused,
    StoreRefused,
    StoreUnavailable,
    TransferRefused,
)
from paddock.hub import Hub, HubFile
from paddock.model.names import ModelName
from paddock.settings import Secret, Settings
from paddock.store.s3 import S3Objects, S3Options
from paddock.transfer.backends import Backend
from paddock.transfer.client import RangeClient
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.transfer.response import RetryableResponseError
from tests.support.certificates import Authority, make_authority
from tests.support.forward_proxy import ForwardProxy, forward_proxy, tls_server
from tests.transfer.remote import MIB, content

MODEL = ModelName.parse("org/name")
WEIGHTS, CONFIG = content(9 * MIB), b"{}"
CREDENTIALS = "user:p@ss/w#rd"
QUOTED = "user:p%40ss%2Fw%23rd"
PASSWORD = "p@ss/w#rd"
ONE = Options(connections=1)
BACKENDS: list[Backend] = ["paddock", "hf_transfer", "xet"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def plain_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubService]:
    hub = LocalHub(tmp_path_factory.mktemp("plain"))
    hub.repository("org/name").commit({"model.gguf": WEIGHTS, "config.json": CONFIG})
    with serve_hub(hub) as service:
        yield service


@pytest.fixture(scope="module")
def tls_hub(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """The address of a Hub behind TLS, whose bytes are behind TLS on another port."""
    hub = LocalHub(tmp_path_factory.mktemp("tls"))
    hub.repository("org/name").commit({"model.gguf": WEIGHTS, "config.json": CONFIG})
    ports: dict[str, int] = {}
    context = authority.server_context()
    with tls_server(context, lambda: ports["bytes"]) as bytes_address, serve_hub(hub) as service:
        ports["bytes"] = urlsplit(service.bytes_address).port or 0
        service.bytes_address = bytes_address
        with tls_server(context, lambda: urlsplit(service.address).port or 0) as address:
            yield address


def files_of(settings: Settings) -> dict[str, HubFile]:
    hub = Hub(settings)
    listing = hub.listing(MODEL)
    return {file.path: hub.file(MODEL, listing.revision, file) for file in listing.files}


def fetch_both(settings: Settings, staging: Path, backend: Backend = "paddock") -> None:
    files = files_of(settings)
    for path, expected in (("config.json", CONFIG), ("model.gguf", WEIGHTS)):
        options = Options(connections=4, segment_bytes=MIB, stall_s=5, backend=backend)
        staged = fetch(files[path], staging=staging, options=options)
        assert staged is not None
        assert staged.path.read_bytes() == expected
        staged.discard()


def hosts(proxy: ForwardProxy) -> set[str]:
    return {request.split()[1] for request in proxy.forwarded}


@pytest.mark.parametrize(
    ("setting", "backend"), [("http_proxy", "paddock"), ("all_proxy", "paddock"), ("http_proxy", "hf_transfer")]
)
def test_listing_and_bytes_go_through_a_proxy_with_a_password(
    plain_hub: HubService, tmp_path: Path, setting: str, backend: Backend
) -> None:
    with forward_proxy(credentials=CREDENTIALS) as proxy:
        fields: dict[str, Any] = {setting: Secret(f"{QUOTED}@{proxy.netloc}")}
        fetch_both(Settings(hub_endpoint=plain_hub.address, **fields), tmp_path, backend)
        assert hosts(proxy) == {urlsplit(plain_hub.address).netloc, urlsplit(plain_hub.bytes_address).netloc}
        assert proxy.refused == 0


def test_an_own_authority_is_trusted_for_listing_and_bytes(tls_hub: str, authority: Authority, tmp_path: Path) -> None:
    fetch_both(Settings(hub_endpoint=tls_hub, ssl_cert_file=authority.ca), tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tunnels_go_through_a_proxy_with_a_password(
    tls_hub: str, authority: Authority, tmp_path: Path, backend: Backend
) -> None:
    with forward_proxy(credentials=CREDENTIALS) as proxy:
        settings = Settings(
            hub_endpoint=tls_hub,
            requests_ca_bundle=authority.ca,
            https_proxy=Secret(f"http://{QUOTED}@{proxy.netloc}"),
        )
        fetch_both(settings, tmp_path, backend)
        assert len(hosts(proxy)) == 2, "the Hub's and that of the bytes"
        assert proxy.refused == 0


def test_a_proxy_is_reached_by_tls(tls_hub: str, authority: Authority, tmp_path: Path) -> None:
    with forward_proxy(credentials=CREDENTIALS, context=authority.server_context()) as proxy:
        address = Secret(f"https://{QUOTED}@{proxy.netloc}")
        fetch_both(Settings(hub_endpoint=tls_hub, ssl_cert_file=authority.ca, https_proxy=address), tmp_path)
        assert len(hosts(proxy)) == 2


@pytest.mark.parametrize("part", ["address", "bytes_address"])
def test_a_host_in_no_proxy_is_reached_directly(plain_hub: HubService, tmp_path: Path, part: str) -> None:
    direct = urlsplit(getattr(plain_hub, part)).netloc
    both = {urlsplit(plain_hub.address).netloc, urlsplit(plain_hub.bytes_address).netloc}
    with forward_proxy() as proxy:
        settings = Settings(
            hub_endpoint=plain_hub.address, http_proxy=Secret(proxy.netloc), no_proxy=f"10.0.0.0/8, {direct}"
        )
        fetch_both(settings, tmp_path)
        assert hosts(proxy) == both - {direct}


def test_the_environment_is_read_in_one_place_only(
    plain_hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.delenv("NO_PROXY", raising=False)
    fetch_both(Settings(hub_endpoint=plain_hub.address), tmp_path)


@pytest.mark.parametrize("credentials", ["", "user:wrong@"])
def test_a_407_is_a_permanent_error_of_the_proxy(
    plain_hub: HubService, tls_hub: str, authority: Authority, tmp_path: Path, credentials: str
) -> None:
    files = files_of(Settings(hub_endpoint=plain_hub.address))
    with forward_proxy(credentials=CREDENTIALS) as proxy:
        address = Secret(f"http://{credentials}{proxy.netloc}")
        plain = Settings(hub_endpoint=plain_hub.address, http_proxy=address)
        tls = Settings(hub_endpoint=tls_hub, https_proxy=address, ssl_cert_file=authority.ca)
        through = Hub(plain).file(MODEL, files["model.gguf"].revision, files["model.gguf"].file)
        for variable, request in (
            ("HTTP_PROXY", lambda: Hub(plain).listing(MODEL)),
            ("HTTPS_PROXY", lambda: Hub(tls).listing(MODEL)),
            ("HTTP_PROXY", lambda: fetch(through, staging=tmp_path, options=ONE)),
        ):
            before = proxy.refused
            with pytest.raises(ProxyRefused, match=rf"the proxy {proxy.netloc} \({variable}\) re.*407") as caught:
                request()
            assert variable in caught.value.cure
            assert "wrong" not in str(caught.value)
            assert proxy.refused == before + 1, "it is not tried again"
    assert proxy.forwarded == []


def test_a_407_for_the_bytes_alone_names_the_proxy_and_is_not_retried(
    tls_hub: str, authority: Authority, tmp_path: Path
) -> None:
    with forward_proxy(credentials=CREDENTIALS) as proxy:
        settings = Settings(
            hub_endpoint=tls_hub,
            https_proxy=Secret(proxy.netloc),
            no_proxy=urlsplit(tls_hub).netloc,
            ssl_cert_file=authority.ca,
        )
        with pytest.raises(ProxyRefused, match=r"HTTPS_PROXY\) requires a user name"):
            fetch(files_of(settings)["model.gguf"], staging=tmp_path, options=ONE)
        assert proxy.refused == 1


def test_a_proxy_that_refuses_a_tunnel_names_the_host_and_no_proxy(tls_hub: str, authority: Authority) -> None:
    with forward_proxy() as proxy:
        settings = Settings(hub_endpoint=tls_hub, https_proxy=Secret(proxy.netloc), ssl_cert_file=authority.ca)
        proxy.tunnel_status = 403
        with pytest.raises(ProxyRefused, match=r"refuses to connect to 127\.0\.0\.1 \(status 403\)") as caught:
            Hub(settings).listing(MODEL)
        assert "NO_PROXY" in caught.value.cure
        proxy.tunnel_status = 503
        with pytest.raises(HubUnavailable, match="status 503"):
            Hub(settings).listing(MODEL)


def test_a_proxy_that_does_not_run_is_named(plain_hub: HubService, tls_hub: str) -> None:
    revision = files_of(Settings(hub_endpoint=plain_hub.address))["model.gguf"]
    address = Secret("http://user:secret@127.0.0.1:9")
    for endpoint in (plain_hub.address, tls_hub):
        with pytest.raises(HubUnavailable, match=r"the proxy 127\.0\.0\.1:9 \(ALL_PROXY\)") as caught:
            Hub(Settings(hub_endpoint=endpoint, all_proxy=address)).listing(MODEL)
        assert "secret" not in str(caught.value)
    host = urlsplit(plain_hub.address).netloc
    settings = Settings(hub_endpoint=plain_hub.address, all_proxy=address, no_proxy=host)
    through = Hub(settings).file(MODEL, revision.revision, revision.file)
    client = RangeClient(through, connections=1, stall_s=5)
    with pytest.raises(RetryableResponseError, match=r"the proxy 127\.0\.0\.1:9 \(ALL_PROXY\)"):
        client.open(0, 100)
    client.close()


@pytest.mark.parametrize("backend", ["paddock", "xet"])
def test_a_certificate_of_an_unknown_authority_is_a_permanent_error_with_the_setting(
    tls_hub: str, authority: Authority, tmp_path: Path, backend: Backend
) -> None:
    trusted = files_of(Settings(hub_endpoint=tls_hub, ssl_cert_file=authority.ca))["model.gguf"]
    settings = Settings(hub_endpoint=tls_hub)
    with pytest.raises(HubRefused, match="is not trusted") as caught:
        Hub(settings).listing(MODEL)
    assert "SSL_CERT_FILE" in caught.value.cure
    other = make_authority(tmp_path / "other").ca
    through = Hub(Settings(hub_endpoint=tls_hub, ssl_cert_file=other)).file(MODEL, trusted.revision, trusted.file)
    with pytest.raises((TransferRefused, HubRefused), match="is not trusted") as refused:
        fetch(through, staging=tmp_path, options=Options(backend=backend))
    assert str(other) in refused.value.cure


def test_certificates_that_cannot_be_read_are_an_error_of_the_first_request(
    plain_hub: HubService, tls_hub: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.pem"
    fetch_both(Settings(hub_endpoint=plain_hub.address, ssl_cert_file=missing), tmp_path)
    with pytest.raises(BadSetting, match=f"SSL_CERT_FILE is not usable: {missing}"):
        Hub(Settings(hub_endpoint=tls_hub, ssl_cert_file=missing)).listing(MODEL)


def test_no_log_has_the_password(plain_hub: HubService, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with forward_proxy(credentials=CREDENTIALS) as proxy, caplog.at_level(logging.DEBUG):
        address = Secret(f"{QUOTED}@{proxy.netloc}")
        fetch_both(Settings(hub_endpoint=plain_hub.address, http_proxy=address), tmp_path)
    assert proxy.forwarded
    assert PASSWORD not in caplog.text
    assert QUOTED not in caplog.text


# S3


@pytest.fixture
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the environment of boto3, with an endpoint."""

    def use(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_access_key)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)

    return use


def objects(s3: S3Server, **settings: Any) -> S3Objects:
    return S3Objects(f"s3://{s3.bucket}/network", options=S3Options.of(Settings(**settings)))


def test_as_many_look_ups_in_s3_as_the_connections_keep_theirs(
    s3: S3Server, keys: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """boto3 warns of each connection that it closes since it keeps fewer."""
    keys(s3.endpoint)
    connections = 32
    store = objects(s3, connections=connections)
    with ThreadPoolExecutor(connections) as pool:
        assert not any(pool.map(lambda number: store.stat(f"absent-{number}"), range(10 * connections)))
    assert [record.getMessage() for record in caplog.records] == []


def test_s3_goes_through_the_proxy_unless_no_proxy_has_its_endpoint(s3: S3Server, keys: Callable[[str], None]) -> None:
    keys(s3.endpoint)
    with forward_proxy(credentials=CREDENTIALS) as proxy:
        address = Secret(f"{QUOTED}@{proxy.netloc}")
        store = objects(s3, http_proxy=address)
        store.put("one", b"1")
        assert hosts(proxy) == {urlsplit(s3.endpoint).netloc}
        assert store.address("one").network.proxy_for(s3.endpoint) is not None
        proxy.forwarded.clear()
        direct = objects(s3, http_proxy=address, no_proxy=urlsplit(s3.endpoint).netloc)
        assert direct.stat("one") is not None
        assert proxy.forwarded == []


def test_a_407_of_s3_speaks_of_the_proxy(
    s3: S3Server, keys: Callable[[str], None], authority: Authority, tmp_path: Path
) -> None:
    with (
        forward_proxy(credentials=CREDENTIALS) as proxy,
        tls_server(authority.server_context(), lambda: urlsplit(s3.endpoint).port or 0) as tls,
    ):
        for endpoint in (s3.endpoint, tls):
            keys(endpoint)
            with pytest.raises(ProxyRefused, match=rf"the proxy {proxy.netloc} \(ALL_PROXY\) requires"):
                objects(s3, all_proxy=Secret(proxy.netloc), ssl_cert_file=authority.ca).stat("one")
    with pytest.raises(StoreUnavailable, match="ALL_PROXY"):
        objects(s3, all_proxy=Secret("127.0.0.1:9")).stat("one")


def test_credentials_that_boto3_cannot_send_are_refused_by_name(s3: S3Server, keys: Callable[[str], None]) -> None:
    keys(s3.endpoint)
    for credentials in ("user", "user:pässword"):
        with pytest.raises(BadSetting, match="boto3 cannot send") as caught:
            objects(s3, all_proxy=Secret(f"{credentials}@127.0.0.1:9")).stat("one")
        assert "pässword" not in str(caught.value)


@pytest.mark.parametrize("setting", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_an_own_authority_is_trusted_for_s3_and_its_bytes(
    s3: S3Server,
    keys: Callable[[str], None],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    with tls_server(authority.server_context(), lambda: urlsplit(s3.endpoint).port or 0) as endpoint:
        keys(endpoint)
        if setting == "AWS_CA_BUNDLE":
            with pytest.raises(StoreRefused, match="certificate"):
                objects(s3).stat("two")
            monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca))
        store = objects(s3, **({"ssl_cert_file": authority.ca} if setting == "SSL_CERT_FILE" else {}))
        store.put("two", b"22")
        address = store.address("two")
        assert address.url.startswith("https://")
        assert address.network.ca_setting == setting
        assert address.network.ca_path == authority.ca
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
        with pytest.raises(BadSetting, match="AWS_CA_BUNDLE"):
            objects(s3).stat("two")


def test_a_directory_of_certificates_is_refused_for_s3(
    s3: S3Server, keys: Callable[[str], None], authority: Authority
) -> None:
    keys("https://127.0.0.1:9")
    with pytest.raises(PaddockError, match="boto3 cannot use a directory of certificates, which SSL_CERT_DIR is"):
        objects(s3, ssl_cert_dir=authority.ca.parent).stat("one")
