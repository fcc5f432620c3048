"""Send what no honest client sends to `paddock serve`: each gets a clean answer or a closed connection."""

from __future__ import annotations

import json
import logging
import re
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from paddock.lifecycle.clients import Clients
from paddock.serving.http.bodies import BodyLimits
from paddock.serving.spec import ServeSpec
from tests.support.fault_totals import Faults
from tests.support.llama_server import llama_server_with
from tests.support.raw_http import CHAT, RawAnswer, chunks, connect, exchange, get, post, post_chunked, read
from tests.support.serving import REAL_MODEL_ID, RunningServer, ServeProgram, running
from tests.support.waiting import wait_for

MODELS = get(b"/v1/models")
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
WEBSOCKET = (
    *(b"Connection: Upgrade", b"Upgrade: websocket"),
    *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
)
BODY_BYTES = 2**18
MILLION = b"a" * 2**20


@pytest.fixture(scope="module")
def server(serve_spec: ServeSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("program")
    program = llama_server_with(folder / "llama-server", status=501, content_type="text/plain", body="")
    limits = BodyLimits(body_bytes=BODY_BYTES, total_bytes=4 * BODY_BYTES)
    with running(serve_spec, program=program, bodies=limits, hosts=("chat.example",)) as server:
        yield server


@pytest.fixture
def port(server: RunningServer) -> int:
    return int(server.url.rpartition(":")[2])


# name: (what is sent, the statuses that come back, whether the connection is closed then)
KINDS: dict[str, tuple[bytes, list[int], bool]] = {
    "a chat": (post(), [200], False),
    "a chat in chunks": (post_chunked(), [200], True),
    "a chat in chunks with a trailer": (post_chunked(body=chunks(CHAT)[:-2] + b"X: y\r\n\r\n"), [200], True),
    # request smuggling
    "a length and a coding": (post(b"Transfer-Encoding: chunked", body=chunks(CHAT)), [400], True),
    "two lengths": (post(b"Content-Length: 3"), [400], True),
    "two equal lengths": (post(b"content-length: %d" % len(CHAT)), [400], True),
    "a list of equal lengths": (post(b"Content-Length: 2, 2", body=b"{}", has_length=False), [400], True),
    "a length with a sign": (post(b"Content-Length: +5", body=b"12345", has_length=False), [400], True),
    "a negative length": (post(b"Content-Length: -5", body=b"12345", has_length=False), [400], True),
    "a length of 400 digits": (post(b"Content-Length: " + b"9" * 400, body=b"", has_length=False), [400], True),
    "a coding other than chunked": (post(b"Transfer-Encoding: gzip", has_length=False), [400], True),
    "chunked twice": (post_chunked(b"Transfer-Encoding: chunked"), [400], True),
    "a coding after a control character": (post(b"Transfer-Encoding: \x0bchunked", has_length=False), [400], True),
    "a coding that contains chunked": (post(b"Transfer-Encoding: xchunked", has_length=False), [400], True),
    "chunked and another coding": (post(b"Transfer-Encoding: gzip, chunked", has_length=False), [400], True),
    "a coding in HTTP/1.0": (post_chunked(version=b"HTTP/1.0"), [400], True),
    "a header on two lines": (get(b"/v1/models", b"X: a", b" b"), [400], True),
    "a head of bare line feeds": (MODELS.replace(b"\r\n", b"\n"), [400], True),
    "a header that ends with a bare line feed": (get(b"/v1/models", b"X: a\nY: b"), [400], True),
    "a body whose chunks end with bare line feeds": (
        post_chunked(body=chunks(CHAT).replace(b"\r\n", b"\n")),
        [400],
        True,
    ),
    "a chunk extension": (post_chunked(body=chunks(CHAT, extension=b";a=b")), [400], True),
    "a space behind the size of a chunk": (post_chunked(body=chunks(CHAT, extension=b" ")), [400], True),
    "a trailer on two lines": (post_chunked(body=chunks(CHAT)[:-2] + b"X: y\r\n z\r\n\r\n"), [400], True),
    "a NUL in a header": (get(b"/v1/models", b"X: a\0b"), [400], True),
    "a control character in a header": (get(b"/v1/models", b"X: a\x01b"), [400], True),
    "a control character in the name of a header": (get(b"/v1/models", b"X\x7f: a"), [400], True),
    "a carriage return in a header": (get(b"/v1/models", b"X: a\rY: b"), [400], True),
    "a space before the colon": (get(b"/v1/models", b"X : a"), [400], True),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", [400], True),
    "no host in HTTP/1.0": (b"GET /v1/models HTTP/1.0\r\n\r\n", [400], True),
    "two content types": (post(b"Content-Type: text/plain"), [400], True),
    "two origins": (get(b"/v1/models", b"Origin: http://localhost", b"Origin: https://evil.example"), [400], True),
    "two hosts": (get(b"/v1/models", b"Host: other"), [400], True),
    "a request after a body in chunks": (post_chunked() + MODELS, [200], True),
    "a request after a body that was not read": (post(path=b"/nowhere", body=MILLION)[:5000] + MODELS, [404], True),
    "requests after `Connection: close`": (get(b"/v1/models", b"Connection: close") + 3 * MODELS, [200], True),
    # bombs
    "a header of 1 MB": (get(b"/v1/models", b"X: " + MILLION), [431], True),
    "10,000 headers": (get(b"/v1/models", *(b"X%d: a" % number for number in range(10_000))), [431], True),
    "101 headers": (get(b"/v1/models", *(b"X%d: a" % number for number in range(100))), [431], True),
    "a target of 1 MB": (get(b"/" + MILLION), [431], True),
    "a target of 100 kB": (get(b"/" + MILLION[:100_000]), [431], True),
    "a chunk extension of 1 MB": (post_chunked(body=chunks(CHAT, extension=b";" + MILLION)), [400], True),
    "100,000 chunks of one byte": (post_chunked(body=chunks(MILLION[:100_000], size=1)), [400], True),
    "a chunk size that is no number": (post_chunked(body=b"zz\r\n"), [400], True),
    "a chunk that is longer than its size": (post_chunked(body=b"2\r\n{}XX0\r\n\r\n"), [400], True),
    "a body above the limit": (post(body=b" " * (2 * BODY_BYTES)), [413], True),
    "a body of a terabyte": (post(b"Content-Length: 1000000000000", body=MILLION, has_length=False), [413], True),
    "chunks without an end": (post_chunked(body=chunks(MILLION, size=2**14)[:-5]), [413], True),
    "a body for a path that does not exist": (post(path=b"/nowhere", body=MILLION), [404], True),
    # other protocols
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", [400], True),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], True),
    "HTTP/9.9": (get(b"/v1/models", version=b"HTTP/9.9"), [400], True),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), [400], True),
    "bytes of any value": (bytes(range(256)) * 10, [400], True),
    "an upgrade to HTTP/2": (get(b"/v1/models", b"Upgrade: h2c", *UPGRADE), [200], False),
    "a chat with an upgrade to HTTP/2": (post(b"Upgrade: h2c", *UPGRADE), [200], False),
    "an upgrade to a web socket": (get(b"/v1/models", *WEBSOCKET), [200], False),
    # methods and targets
    "Expect: 100-continue": (post(b"Expect: 100-continue"), [100, 200], False),
    "Expect: 100-continue for a path that does not exist": (
        post(b"Expect: 100-continue", path=b"/nowhere").removesuffix(CHAT),
        [404],
        True,
    ),
    "HEAD": (get(b"/v1/models", method=b"HEAD"), [200], False),
    "TRACE": (get(b"/v1/models", method=b"TRACE"), [405], False),
    "CONNECT": (get(b"example.com:443", method=b"CONNECT"), [404], False),
    "OPTIONS *": (get(b"*", method=b"OPTIONS"), [404], False),
    "a method that does not exist": (get(b"/v1/models", method=b"A" * 5000), [405], False),
    "a target with scheme and host": (get(b"HTTP://LOCALHOST/v1/models?x=http://y"), [200], False),
    "a target with a host alone": (get(b"http://localhost"), [404], False),
    "a target with another host": (get(b"http://other/v1/models"), [400], True),
    "a target with a user": (get(b"http://localhost@other/v1/models"), [400], True),
    "a NUL in the path": (get(b"/v1/models/%00"), [404], False),
    "dots in the path": (get(b"/v1/../../../etc/passwd"), [404], False),
    "escaped dots in the path": (get(b"/v1/%2e%2e/%2e%2e/etc/passwd"), [404], False),
    "a path that is not UTF-8": (get(b"/v1/models/%ff%fe"), [404], False),
    "a path that is not ASCII": (get("/v1/modèles".encode()), [400], True),
    "a host that is no host": (b"GET /nowhere HTTP/1.1\r\nHost: [\r\n\r\n", [400], False),
    "an empty host": (b"GET /nowhere HTTP/1.1\r\nHost:\r\n\r\n", [400], False),
    "a host of another machine": (b"GET /v1/models HTTP/1.1\r\nHost: rebound.example\r\n\r\n", [403], False),
    "a host of the setting": (b"GET /v1/models HTTP/1.1\r\nHost: chat.example\r\n\r\n", [200], False),
    "a page of another origin": (post(b"Origin: https://evil.example"), [403], False),
    "the metrics for a page of another site": (get(b"/metrics", b"Sec-Fetch-Site: cross-site"), [403], False),
    # pipelining
    "three requests at once": (3 * MODELS, [200] * 3, False),
    "three chats at once": (3 * post(), [200] * 3, False),
    "a chat, and then no request": (post() + b"BAD\r\n\r\n", [200, 400], True),
    "an empty line before a request": (b"\r\n" + MODELS, [400], True),
}


@pytest.mark.parametrize(("content", "statuses", "closes"), KINDS.values(), ids=KINDS)
def test_each_kind_of_request_gets_its_answer(port: int, content: bytes, statuses: list[int], closes: bool) -> None:
    answer = exchange(port, content, answers=len([status for status in statuses if status >= 200]))
    assert (answer.statuses, answer.end) == (statuses, "closed" if closes else "open")
    if statuses[-1] >= 400:
        assert isinstance(answer.last_json, dict)
        assert answer.last_json["error"]["message"]


def test_a_chat_gets_its_own_answer_after_every_kind(server: RunningServer) -> None:
    health = httpx.get(f"{server.url}/health").json()
    assert (health["status"], health["running"], health["restarts"]) == ("ok", 0, 0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, from the system's packages")
def test_the_curl_command_of_the_page_is_answered(port: int) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (command,) = re.findall(r"^curl http://127\.0\.0\.1:8080/v1/chat/completions .*\n.*$", page, re.MULTILINE)
    shell = command.replace(":8080", f":{port}").replace("curl ", "curl -sSf ", 1)
    answer = subprocess.run(shell, shell=True, check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout)["choices"]


def test_ten_thousand_requests_at_once_are_not_buffered(port: int) -> None:
    answer = exchange(port, post() + 10_000 * MODELS, answers=10_000)
    assert answer.end == "closed"
    assert set(answer.statuses) == {200}
    assert len(answer.statuses) < 5000


@pytest.mark.parametrize("sent", [b"", b"GET", MODELS[:-2], post()[:-9], post_chunked()[:-9], MODELS, post()])
@pytest.mark.parametrize("end", ["half", "reset"])
def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(
    server: RunningServer, port: int, sent: bytes, end: str
) -> None:
    with connect(port) as client:
        client.sendall(sent)
        if end == "half":
            client.shutdown(socket.SHUT_WR)
            assert read(client).end in {"closed", "reset"}
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: httpx.get(f"{server.url}/health").json()["running"] == 0)


def test_hostile_requests_do_not_fill_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(25):
            assert exchange(port, b"BAD\r\n\r\n").statuses == [400]
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert len(ours) <= 11
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.torture
def test_ten_thousand_connections_and_two_hundred_endless_bodies_harm_no_other_client(
    promoted_model: Clients, tmp_path: Path, faults: Faults
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12_000:
        pytest.skip("10,000 connections need as many file descriptors: raise the limit with `ulimit -Hn 12000`")
    faults.add(10_200)
    program = llama_server_with(tmp_path / "llama-server", status=501, content_type="text/plain", body="")
    environment = {"PADDOCK_VOLUME": str(promoted_model.settings.volume), "PADDOCK_LLAMA_SERVER": str(program)}
    with ServeProgram(REAL_MODEL_ID, environment=environment) as server:
        port = int(server.url.rpartition(":")[2])
        process = psutil.Process(server.process.pid)
        before, most, times, failed = process.memory_info().rss, 0, list[float](), list[RawAnswer]()
        command = [sys.executable, "-m", "tests.support.flood", str(port), "10000", "200"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:
            while flood.poll() is None:
                began = time.monotonic()
                answer = exchange(port, post(), timeout_s=60)
                times.append(time.monotonic() - began)
                if answer.statuses != [200]:
                    failed.append(answer)
                most = max(most, process.memory_info().rss)
            attack, _ = flood.communicate()
        ordered = sorted(times)
        print(f"attack: {attack.splitlines()}; memory before {before >> 20} MiB, most {most >> 20} MiB")
        print(f"client: {len(times)} answers, median {ordered[len(times) // 2]:.3f} s, slowest {ordered[-1]:.2f} s")
        assert failed == []
        assert most - before < 200 * 2**20
        status, log = server.end()
    assert status == 0
    assert "Traceback" not in log
    assert len(log.splitlines()) < 50


@pytest.mark.torture
def test_two_thousand_half_open_connections_and_a_hundred_unfinished_bodies_harm_no_other_client(
    promoted_model: Clients, tmp_path: Path, faults: Faults
) -> None:
    faults.add(2100)
    program = llama_server_with(tmp_path / "llama-server", status=501, content_type="text/plain", body="")
    environment = {
        "PADDOCK_VOLUME": str(promoted_model.settings.volume),
        "PADDOCK_LLAMA_SERVER": str(program),
        "PADDOCK_SERVE_HOSTS": "chat.example",
    }
    large = json.dumps({"messages": [{"role": "user", "content": "a" * (7 * 2**20)}]}).encode()
    with ServeProgram(REAL_MODEL_ID, environment=environment) as server:
        port = int(server.url.rpartition(":")[2])
        assert exchange(port, b"GET /health HTTP/1.1\r\nHost: chat.example\r\n\r\n").statuses == [200]
        process = psutil.Process(server.process.pid)
        exchange(port, post())
        idle, most = process.memory_info().rss, 0
        waits: dict[str, list[float]] = {"health": [], "chat": []}
        command = [sys.executable, "-m", "tests.support.held_open", str(port), "2000", "100", str(7 * 2**20)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attack:
            assert attack.stdout is not None
            began = attack.stdout.readline()  # all are open
            with ThreadPoolExecutor(1) as pool:
                in_time = pool.submit(exchange, port, post(body=large), timeout_s=60)
                while attack.poll() is None:
                    for name, sent in (("health", get(b"/health")), ("chat", post())):
                        start = time.monotonic()
                        assert exchange(port, sent, timeout_s=30).statuses == [200]
                        waits[name].append(time.monotonic() - start)
                        most = max(most, process.memory_info().rss)
            ended = attack.stdout.read()
        print(f"attack: {(began + ended).splitlines()}; memory idle {idle >> 20} MiB, most {most >> 20} MiB")
        print(f"a chat of 7 MiB: {in_time.result().statuses}")
        for name, seconds in waits.items():
            print(f"{name}: {len(seconds)}, median {statistics.median(seconds):.3f} s, slowest {max(seconds):.3f} s")
        assert in_time.result().statuses == [200]
        assert max(waits["health"][1:]) < 1  # the first one came while they were still being accepted
        assert most - idle < 100 * 2**20
        status, log = server.end()
    assert status == 0
    assert "Traceback" not in log
