"""Answers of a Hub that are about something else than what was requested, too large, too slow, or lead elsewhere."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from paddock.errors import HubRefused, TransferRefused
from paddock.hub.answers import MAX_ANSWER_BYTES
from paddock.model.artifact import RepositoryFile
from paddock.model.names import ModelName, Revision
from paddock.network import DIRECT, Network
from paddock.network.transport import ProxiedTransport
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.hub.conftest import client
from tests.support.fixed_response import fixed_response_server
from tests.support.http_server import QuietHandler, QuietServer, serving

MODEL = ModelName.parse("org/name")
ASKED, OTHER = "b" * 40, "a" * 40


def answer(*, sha: object = ASKED, id: object = "org/name") -> bytes:
    return json.dumps({"_id": "0" * 24, "id": id, "sha": sha, "siblings": []}).encode()


@contextmanager
def responding(respond: Callable[[QuietHandler], None]) -> Iterator[str]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"  # the connection ends with the response, so that clients keep none

        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            respond(self)

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def send(handler: QuietHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


OTHER_COMMITS = {"another": OTHER, "one digit more": "b" * 39 + "c", "of zeros": "0" * 40}


@pytest.mark.parametrize("sha", OTHER_COMMITS.values(), ids=OTHER_COMMITS)
def test_another_commit_than_the_requested_one_is_refused(sha: str) -> None:
    with fixed_response_server(answer(sha=sha)) as address:
        api = client(address)
        for ask in (api.listing, api.head):
            for ref in (ASKED, ASKED.upper()):
                with pytest.raises(
                    HubRefused, match=f"was asked for org/name@{ref}, and it answered with commit {sha}"
                ):
                    ask(MODEL, ref)
            assert ask(MODEL).revision == ask(MODEL, "v1.0").revision == sha


OTHER_REPOSITORIES = ["other/name", "org/other", "name", "org/name2", "evil/org"]


@pytest.mark.parametrize("id", OTHER_REPOSITORIES)
def test_another_repository_to_which_the_hub_did_not_redirect_is_refused(id: str) -> None:
    with fixed_response_server(answer(id=id)) as address:
        api = client(address)
        for ask in (api.listing, api.head):
            with pytest.raises(HubRefused, match=f"it answered about the repository {id}"):
                ask(MODEL, ASKED)


@pytest.mark.parametrize(
    ("location", "accepted"),
    [
        ("/api/models/new/name/revision/main", True),
        ("/api/models/New/Name/revision/main?blobs=true", True),
        ("/api/models/new%2Fname/revision/main", True),
        ("/api/models/new/name2/revision/main", False),
        ("/api/models/other/name/revision/main", False),
        ("/new/name", False),
    ],
)
def test_a_renamed_repository_is_one_that_the_hub_redirects_to(location: str, accepted: bool) -> None:
    def respond(handler: QuietHandler) -> None:
        if handler.path.startswith("/api/models/org/"):
            send(handler, 307, Location=location)
        else:
            send(handler, 200, answer(id="new/name"))

    with responding(respond) as address:
        if accepted:
            assert client(address).listing(MODEL).model == client(address).head(MODEL).model == ModelName("new", "name")
        else:
            with pytest.raises(HubRefused, match="it answered about the repository new/name"):
                client(address).listing(MODEL)


def test_the_hub_s_own_spelling_is_the_name_and_a_mirror_may_send_none() -> None:
    with fixed_response_server(answer(id="ORG/Name")) as address:
        assert client(address).listing(MODEL).model == ModelName("ORG", "Name")
    for id in (None, 7, "../x", ""):
        with fixed_response_server(answer(id=id)) as address:
            assert client(address).listing(MODEL).model == MODEL


def _zeros(count: int) -> bytes:
    return b'{"id": "' + b"0" * count + b'"}'


TOO_LARGE: dict[str, tuple[bytes, dict[str, str]]] = {
    "a large body": (_zeros(MAX_ANSWER_BYTES), {}),
    "a body that decompresses to more": (gzip.compress(_zeros(MAX_ANSWER_BYTES), 9), {"Content-Encoding": "gzip"}),
    "one of deflate": (zlib.compress(_zeros(MAX_ANSWER_BYTES), 9), {"Content-Encoding": "deflate"}),
    "a compression inside another": (gzip.compress(gzip.compress(b"{}")), {"Content-Encoding": "gzip, gzip"}),
    "an encoding that is not known": (b"{}", {"Content-Encoding": "br"}),
    "a compressed body that is cut off": (gzip.compress(answer())[:-9], {"Content-Encoding": "gzip"}),
    "what is not compressed": (answer(), {"Content-Encoding": "gzip"}),
    "millions of objects": (b'{"id": [' + b"{}," * 1_500_000 + b"{}]}", {}),
}


@pytest.mark.parametrize(("body", "headers"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_answer_beyond_its_bounds_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with (
        fixed_response_server(body, headers=headers) as address,
        pytest.raises(HubRefused, match=r"the answer of 127\.0\.0\.1 cannot be used: "),
    ):
        client(address).listing(MODEL)


def test_a_compressed_answer_is_read() -> None:
    with fixed_response_server(gzip.compress(answer()), headers={"Content-Encoding": "gzip"}) as address:
        assert client(address).listing(MODEL, ASKED).revision == ASKED


SLOW: dict[str, bytes] = {
    "the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    "the headers": b"HTTP/1.1 200 OK\r\nX: ",
    "the status": b"",
}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
def test_an_answer_that_comes_byte_by_byte_ends_at_its_deadline(start: bytes) -> None:
    def respond(handler: QuietHandler) -> None:
        handler.wfile.write(start)
        for _ in range(60):
            time.sleep(0.02)
            handler.wfile.write(b"1")

    began = time.monotonic()
    with responding(respond) as address, ProxiedTransport(DIRECT, server=address, answer_s=0.2) as transport:
        request = httpx2.Request("GET", address, extensions={"timeout": {"read": 5.0, "connect": 5.0}})
        with pytest.raises((httpx2.ReadTimeout, httpx2.RemoteProtocolError)):
            transport.handle_request(request).read()
    assert time.monotonic() - began < 1.0


ELSEWHERE = {
    "the metadata service of a cloud": "http://169.254.169.254/latest/meta-data",
    "its address as a number": "http://2852039166/latest",
    "its address in IPv6": "http://[::ffff:169.254.169.254]/latest",
    "a private network": "http://10.0.0.1:9000/admin",
    "a private network as a number": "http://167772161/",
    "a unique local address": "http://[fd00:ec2::254]/",
}


@pytest.mark.parametrize("location", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_redirect_into_another_network_is_not_followed(location: str, tmp_path: Path) -> None:
    def respond(handler: QuietHandler) -> None:
        send(handler, 302, Location=location, X_Repo_Commit=ASKED, ETag='"x"')

    with responding(respond) as address:
        api = client(address)
        with pytest.raises(HubRefused, match="which is not followed"):
            api.listing(MODEL)
        file = api.file(MODEL, Revision(ASKED), RepositoryFile("m.gguf", 9 << 20, None, "c" * 40))
        for backend in ("paddock", "hf_transfer"):
            began = time.monotonic()
            with pytest.raises(TransferRefused, match="which is not followed"):
                fetch(file, staging=tmp_path / backend, options=Options(connections=1, stall_s=2.0, backend=backend))
            assert time.monotonic() - began < 1.0, "no connection was tried"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://169.254.169.254\\@public.example/",
        "http:/169.254.169.254/",
        "http:\\\\169.254.169.254/",
        "http://user@169.254.169.254/",
    ],
)
def test_a_server_of_xet_in_another_network_is_not_used(url: str) -> None:
    """Programs differ in what they take for the host of some of them."""
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": "9"}
    with fixed_response_server(answer(), headers=headers) as address, pytest.raises(HubRefused, match="not followed"):
        client(address).listing(MODEL)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "localhost", "169.254.169.254"])
def test_a_proxy_is_not_asked_for_this_machine_either(host: str) -> None:
    """The proxy resolves the Hub's name, which this machine cannot."""
    requested: list[str] = []

    def respond(handler: QuietHandler) -> None:
        requested.append(handler.path)
        send(handler, 302, Location=f"http://{host}/api/models/org/name")

    with responding(respond) as proxy:
        transport = ProxiedTransport(Network(http_proxy=proxy), server="http://hub.invalid")
        with (
            httpx2.Client(transport=transport, follow_redirects=True, trust_env=False) as http,
            pytest.raises(HubRefused, match="not followed"),
        ):
            http.get("http://hub.invalid/api/models/org/name")
    assert requested == ["http://hub.invalid/api/models/org/name"]


def test_a_hub_with_tls_is_not_left_for_a_server_without() -> None:
    transport = ProxiedTransport(DIRECT, server="https://hub.example.com")
    with httpx2.Client(transport=transport, trust_env=False) as http, pytest.raises(HubRefused, match="by https"):
        http.get("http://hub.example.com/api")
