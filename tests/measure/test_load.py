"""The load test: with llama-cpp-python's own server and the real model, and with a server that fails in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from infra.local.ports import start_on_free_ports
from infra.local.service import Service
from paddock.errors import BadSetting, ServerUnavailable
from paddock.measure.load_test import LoadTest, Percentiles, is_loopback_host, run_load_test
from paddock.serving.engine.llama_server import find_program
from paddock.settings import Secret
from tests.support.fixed_response import fixed_response_server
from tests.support.http_server import QuietHandler, QuietServer, serving

KEY = Secret("canaryCANARYcanary")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real server that requires a key."""
    log = tmp_path_factory.mktemp("server") / "log"

    def launch(ports: list[int]) -> Service:
        program = find_program(None)
        command = [
            *(str(program.path), "--model", str(model), "--port", str(ports[0]), "--api-key", KEY.get_secret_value()),
            *("--threads", "1", "--ctx-size", "2048", "--parallel", "1", "--no-ui"),
        ]
        return Service("llama-server", command, log=log, environment=program.environment())

    def ready(ports: list[int], _: Service) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{ports[0]}/health", trust_env=False, timeout=2).is_success
        except httpx.HTTPError:
            return False

    service, ports = start_on_free_ports(launch, ready, deadline_s=90)
    try:
        yield f"http://127.0.0.1:{ports[0]}/v1"
    finally:
        service.stop()


@pytest.fixture(scope="module")
def load_test(server: str) -> LoadTest:
    return run_load_test(server, api_key=KEY, levels=(1, 2), requests=3, max_tokens=8)


def test_every_answer_of_a_real_server_is_whole_at_every_level(load_test: LoadTest) -> None:
    assert load_test.on_this_machine
    for row in load_test.rows():
        print(*row)
    assert [(level.concurrency, level.requests, level.whole, level.errors) for level in load_test.levels] == [
        (1, 3, 3, {}),
        (2, 3, 3, {}),
    ]


def test_times_are_consistent_with_each_other(load_test: LoadTest) -> None:
    for level in load_test.levels:
        assert level.latency_s is not None
        assert level.first_token_s is not None
        assert level.gap_s is not None
        assert 0 < level.first_token_s.p50 < level.latency_s.p50 <= level.latency_s.longest < level.seconds
        assert level.gap_s.p50 < level.latency_s.p50
        assert 0 < level.tok_per_s < 3 * 8 / level.latency_s.p50 + 1


def test_a_load_test_survives_json(load_test: LoadTest) -> None:
    assert LoadTest.from_json(json.loads(json.dumps(load_test.to_json()))) == load_test


def test_answers_that_are_not_streamed_have_no_gaps(server: str) -> None:
    (level,) = run_load_test(server, api_key=KEY, levels=(1,), requests=1, max_tokens=4, streamed=False).levels
    assert (level.whole, level.gap_s, level.first_token_s) == (1, None, None)
    assert level.latency_s is not None
    assert level.tok_per_s > 0


def test_the_error_for_a_wrong_key_does_not_contain_the_key(server: str) -> None:
    with pytest.raises(ServerUnavailable, match="answered 401 to /models") as refused:
        run_load_test(server, api_key=Secret("hunter2"))
    assert "hunter2" not in str(refused.value)


PIECE = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
END = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
ANSWERS: dict[str, tuple[int, bytes, dict[str, str], str]] = {
    "too many requests": (429, b"", {}, "429"),
    "internal error": (500, b"no", {}, "500"),
    "redirect": (302, b"", {"Location": "http://127.0.0.1:9/"}, "302"),
    "the stream ends early": (200, PIECE, {}, "cut off"),
    "the connection ends early": (200, PIECE, {"Content-Length": "1000"}, "cut off"),
    "error event": (
        200,
        PIECE + b'data: {"error": {"message": "x"}}\n\n',
        {},
        "an error in the stream",
    ),
    "HTML": (200, b"<html></html>", {}, "cut off"),
    "broken JSON": (200, b"data: {nonsense\n\n", {}, "not as OpenAI's API answers"),
    "JSON list": (200, b"data: []\n\n", {}, "not as OpenAI's API answers"),
    "no answer": (200, PIECE + END, {"X-Silent": "1"}, "timed out"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_failures_are_counted_by_name(case: str) -> None:
    status, body, headers, error = ANSWERS[case]
    with scripted(lambda number: (status, body, headers)) as url:
        (level,) = run_load_test(url, levels=(2,), requests=3, timeout_s=0.5).levels
    assert (level.whole, level.errors) == (0, {error: 3})
    assert (level.latency_s, level.first_token_s, level.gap_s, level.tok_per_s) == (None, None, None, 0.0)


def test_complete_answers_are_measured_despite_failures() -> None:
    """The first request is the warm-up."""
    with scripted(lambda number: (503, b"", {}) if number == 2 else (200, PIECE * 3 + END, {})) as url:
        result = run_load_test(url, levels=(1,), requests=4)
    (level,) = result.levels
    assert (level.whole, level.errors) == (3, {"503": 1})
    assert level.latency_s is not None
    ((_, figure, errors),) = result.rows()
    assert "tokens/s" in figure
    assert errors == "1 × 503"


def test_each_level_sends_at_least_as_many_requests_as_run_at_once() -> None:
    with scripted(lambda number: (200, PIECE + END, {})) as url:
        assert [level.requests for level in run_load_test(url, levels=(1, 5), requests=2).levels] == [2, 5]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"data": []}', b"<html></html>"])
def test_a_server_that_lists_no_model_is_refused(body: bytes) -> None:
    with fixed_response_server(body) as address, pytest.raises(ServerUnavailable, match="lists no model"):
        run_load_test(address)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://host/v1", "http://u:hunter2@host/v1", "http://h:x/v1"])
def test_an_address_that_is_not_usable_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadSetting) as refused:
        run_load_test(url)
    assert "hunter2" not in str(refused.value)


def test_percentiles_are_observed_values() -> None:
    assert Percentiles.of([]) is None
    assert Percentiles.of([0.5]) == Percentiles(0.5, 0.5, 0.5, 0.5)
    assert Percentiles.of([float(number) for number in range(100, 0, -1)]) == Percentiles(50, 90, 99, 100)


@contextmanager
def scripted(answer: Callable[[int], tuple[int, bytes, dict[str, str]]]) -> Iterator[str]:
    """A server with one model, whose `number`th chat request gets what `answer` says."""
    counted = iter(range(1_000))
    awake = threading.Event()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"  # the end of a connection ends a body

        def do_GET(self) -> None:  # noqa: N802 - the names are http.server's
            self._send(200, b'{"data": [{"id": "a model"}]}', {})

        def do_POST(self) -> None:  # noqa: N802 - the names are http.server's
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body, headers = answer(next(counted))
            if "X-Silent" in headers:
                awake.wait(30)
            self._send(status, body, headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            awake.set()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("gpu", False)],
)
def test_only_a_loopback_address_is_of_this_machine(host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) is is_loopback
