"""Bound a server's connections: their number, and the time that a client may take for each part of a request."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from paddock.serving.http.bodies import BodyLimits, BodyReader
from paddock.serving.http.connection_table import ConnectionLimits
from paddock.serving.http.connections import BoundedConfig, BoundedServer, LogRate, log_loop_error
from paddock.serving.requests.parse import RequestRefused
from tests.support.raw_http import chunks, connect, exchange, get, post, post_chunked, read
from tests.support.waiting import wait_for

QUICK = ConnectionLimits(connections=6, accepted=4, head_s=0.2, idle_s=0.2, discard_s=0.2, flush_s=0.2)
PATIENT = ConnectionLimits(connections=6, accepted=4)
SMALL = BodyLimits(body_bytes=2**20, total_bytes=2 * 2**20, deadline_s=0.3)
ANSWER = b"a" * (8 * 2**20)
"""Longer than the buffers of a connection."""


@dataclass
class App:
    """Application behind the server: `/body` reads the request's body (and with `?hold` answers when `go` is set),
    `/wait` answers when `go` is set, and `/long` answers at length."""

    bodies: BodyReader
    port: int = 0
    received: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    server: BoundedServer | None = None
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def open_connections(self) -> int:
        assert self.server is not None
        return len(self.server.server_state.connections)

    @property
    def answering(self) -> int:
        """Number of requests that are being answered."""
        return len(self.server.server_state.tasks) if self.server else 0

    def proceed(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.go.set)

    def asgi(self) -> Starlette:
        async def body(request: Request) -> Response:
            try:
                async with self.bodies.read(request) as content:
                    if "hold" in request.query_params:
                        await self.go.wait()
                    return PlainTextResponse(str(len(content)))
            except RequestRefused as error:
                self.received.append(str(error.status))
                return PlainTextResponse(error.message, error.status)
            except ClientDisconnect:
                self.received.append("left")
                return Response()

        async def wait(_request: Request) -> Response:
            await self.go.wait()
            return PlainTextResponse("done")

        async def long(_request: Request) -> Response:
            return Response(ANSWER)

        return Starlette(
            routes=[
                Route("/body", body, methods=["POST"]),
                Route("/wait", wait),
                Route("/long", long),
            ]
        )


@contextmanager
def serving(limits: ConnectionLimits, bodies: BodyLimits = SMALL) -> Iterator[App]:
    """Serve in a thread."""
    started = threading.Event()
    app = App(BodyReader(bodies))
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        app.port = listener.getsockname()[1]

        async def main() -> None:
            app.loop = asyncio.get_running_loop()

            def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
                app.errors.append(context["message"])
                log_loop_error(loop, context)

            app.loop.set_exception_handler(on_error)
            app.server = BoundedServer(BoundedConfig(app.asgi(), limits))
            running = asyncio.create_task(app.server.serve(sockets=[listener]))
            while not app.server.started:
                await asyncio.sleep(0.005)
            started.set()
            await running

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert started.wait(20)
        try:
            yield app
        finally:
            assert app.server is not None
            app.server.should_exit = app.server.force_exit = True
            thread.join(20)
            assert not thread.is_alive()


def test_a_connection_without_a_request_is_closed() -> None:
    with serving(QUICK) as app, connect(app.port) as client:
        assert read(client).content == b""


def test_a_head_that_comes_byte_by_byte_is_late() -> None:
    with serving(QUICK) as app, connect(app.port) as client:
        for byte in get(b"/wait"):
            time.sleep(0.01)  # slower than the deadline allows for all bytes
            client.sendall(bytes([byte]))
            if byte == ord("/"):
                break
        answer = read(client)
    assert (answer.statuses, answer.end) == ([408], "closed")


def test_the_head_of_a_second_request_has_the_same_deadline() -> None:
    with serving(QUICK) as app, connect(app.port) as client:
        client.sendall(post(path=b"/body") + b"GET /wait HTT")
        answer = read(client, answers=2)
    assert (answer.statuses, answer.end) == ([200, 408], "closed")


def test_a_connection_is_kept_for_the_next_request_only_for_a_while() -> None:
    with serving(QUICK) as app, connect(app.port) as client:
        client.sendall(post(path=b"/body"))
        assert read(client, answers=2).end == "closed"


@pytest.mark.parametrize(
    "request_bytes",
    [post(b"Content-Length: 1000", has_length=False, path=b"/body"), post_chunked(body=chunks(b"a" * 9)[:-5])],
    ids=["length", "chunks"],
)
def test_a_body_that_comes_slowly_is_late_as_a_whole(request_bytes: bytes) -> None:
    request_bytes = request_bytes.replace(b"/v1/chat/completions", b"/body")
    with serving(PATIENT) as app, connect(app.port, timeout_s=0.05) as client:
        client.sendall(request_bytes)
        answer = read(client)
        for _ in range(40):
            if answer.statuses:
                break
            client.settimeout(0.05)
            client.sendall(b"1\r\na\r\n")
            answer = read(client)
    assert (answer.statuses, answer.end) == ([408], "closed")


def test_bodies_that_are_too_large_together_do_not_keep_out_a_small_one() -> None:
    """Four clients send all but the end of 900 kB each, where 2 MiB may be read at once."""
    large = BodyLimits(body_bytes=2**20, total_bytes=2 * 2**20, deadline_s=30)
    with serving(PATIENT, large) as app, ExitStack() as stack:
        clients = [stack.enter_context(connect(app.port)) for _ in range(4)]
        for client in clients:
            client.sendall(post(b"Content-Length: 1000000", body=b"a" * 900_000, has_length=False, path=b"/body"))
        answer = exchange(app.port, post(path=b"/body"))
        assert answer.statuses == [200]
        wait_for(lambda: len(app.received) >= 2)
        assert app.received == ["503", "503"]
        for client in clients:
            client.settimeout(0.05)
        assert sorted(status for client in clients for status in read(client).statuses) == [503, 503]


def test_bodies_that_stand_still_do_not_keep_out_a_large_one() -> None:
    """Twelve clients send 600 kB of 900 kB each and then nothing, where 6 MiB may be read at once."""
    bodies = BodyLimits(body_bytes=2**20, total_bytes=6 * 2**20, deadline_s=30)
    with serving(ConnectionLimits(connections=40, accepted=8), bodies) as app, ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(connect(app.port))
            client.sendall(post(b"Content-Length: 900000", body=b"a" * 600_000, has_length=False, path=b"/body"))
        assert exchange(app.port, post(body=b"a" * 900_000, path=b"/body")).statuses == [200]
        assert set(app.received) == {"503"}


def test_a_body_counts_until_its_request_is_answered() -> None:
    bodies = BodyLimits(body_bytes=2**20, total_bytes=8 * 2**20, held_bytes=2**20)
    with serving(PATIENT, bodies) as app, connect(app.port) as client:
        client.sendall(post(body=b"a" * 900_000, path=b"/body?hold"))
        wait_for(lambda: app.bodies.held_bytes == 900_000)
        refused = exchange(app.port, post(body=b"a" * 200_000, path=b"/body"))
        assert (refused.statuses, b"1048576 bytes together" in refused.content) == ([503], True)
        assert exchange(app.port, post(path=b"/body")).statuses == [200]  # a small one is let in
        app.proceed()
        assert read(client).statuses == [200]
        assert exchange(app.port, post(body=b"a" * 200_000, path=b"/body")).statuses == [200]


def test_a_client_that_asks_on_without_reading_is_disconnected() -> None:
    """It would hold its answers, and with them a place among the connections, for ever."""
    with serving(QUICK) as app, connect(app.port) as client:
        client.sendall(get(b"/long") * 2)
        wait_for(lambda: app.open_connections == 1)
        wait_for(lambda: app.open_connections == 0)
        assert len(read(client).content) < 2 * len(ANSWER)


def test_a_client_that_reads_slowly_gets_its_whole_answer() -> None:
    with serving(ConnectionLimits(connections=6, accepted=4, flush_s=0.3)) as app, connect(app.port) as client:
        client.sendall(get(b"/long"))
        received = 0
        while received < len(ANSWER):
            received += len(client.recv(1 << 20))
            time.sleep(0.005)
    assert received >= len(ANSWER)


def test_many_connections_that_are_left_open_do_not_keep_out_a_client() -> None:
    with serving(PATIENT) as app, ExitStack() as stack:
        clients = [stack.enter_context(connect(app.port)) for _ in range(40)]
        assert exchange(app.port, post(path=b"/body")).statuses == [200]
        assert app.open_connections <= PATIENT.connections
        assert read(clients[0]).end == "closed"


def test_slow_bodies_do_not_keep_out_a_client() -> None:
    with serving(PATIENT) as app, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(app.port)).sendall(post(path=b"/body")[:-5])
        assert exchange(app.port, post(path=b"/body")).statuses == [200]


def test_a_connection_whose_request_is_being_answered_is_never_closed_for_another() -> None:
    with serving(PATIENT) as app, ExitStack() as stack:
        clients = [stack.enter_context(connect(app.port)) for _ in range(PATIENT.connections)]
        for client in clients:
            client.sendall(get(b"/wait"))
        wait_for(lambda: app.answering >= len(clients))
        refused = exchange(app.port, b"")
        assert (refused.statuses, refused.end) == ([503], "closed")
        app.proceed()
        assert [read(client).statuses for client in clients] == [[200]] * len(clients)


def test_one_address_does_not_keep_out_another() -> None:
    limits = ConnectionLimits(connections=6, per_address=4, accepted=4)
    with serving(limits) as app, ExitStack() as stack:
        clients = [stack.enter_context(connect(app.port)) for _ in range(limits.per_address)]
        for client in clients:
            client.sendall(get(b"/wait"))
        wait_for(lambda: app.answering >= len(clients))
        assert exchange(app.port, post(path=b"/body")).statuses == [503]
        other = socket.create_connection(("127.0.0.1", app.port), timeout=10, source_address=("127.0.0.2", 0))
        stack.enter_context(other).sendall(post(path=b"/body"))
        assert read(other).statuses == [200]
        app.proceed()


def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    with serving(QUICK) as app, connect(app.port) as client:
        client.sendall(get(b"/long", b"Connection: close"))
        wait_for(lambda: app.open_connections == 1)
        wait_for(lambda: app.open_connections == 0)
        assert len(read(client).content) < len(ANSWER)


def test_a_server_that_runs_out_of_file_descriptors_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with serving(ConnectionLimits(head_s=0.3, accepted=8)) as app, ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        clients = [socket.socket() for _ in range(20)]
        for client in clients:
            stack.callback(client.close)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(client.fileno() for client in clients) + 12, hard))
        for client in clients[:-1]:
            client.connect(("127.0.0.1", app.port))
        clients[-1].settimeout(10)
        clients[-1].connect(("127.0.0.1", app.port))
        clients[-1].sendall(post(path=b"/body"))
        assert read(clients[-1]).statuses == [200]
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {"socket.accept() out of system resource"} == set(app.errors)
    assert len(lines) <= 11
    assert not any(record.exc_info for record in lines)


def test_a_server_that_ends_while_bodies_are_read_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        with serving(PATIENT) as app:
            clients = [stack.enter_context(connect(app.port)) for _ in range(4)]
            for client in clients:
                client.sendall(post(b"Content-Length: 1000000", body=b"a" * 100_000, has_length=False, path=b"/body"))
            wait_for(lambda: app.answering >= len(clients))
        assert [read(client).statuses for client in clients] == [[503]] * len(clients)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(("files", "connections"), [(64, 8), (256, 128), (1024, 832), (1 << 20, 1000)])
def test_the_bound_follows_from_the_file_descriptors_of_the_process(files: int, connections: int) -> None:
    assert ConnectionLimits.for_files(files).connections == connections


def test_the_log_names_how_many_messages_were_left_out() -> None:
    rate = LogRate(2, period_s=0.01)
    records = [logging.LogRecord("name", logging.WARNING, "file", 1, "bad request", (), None) for _ in range(6)]
    assert [rate.filter(record) for record in records[:5]] == [True, True, False, False, False]
    time.sleep(0.02)  # the period is over
    assert rate.filter(records[5])
    assert records[5].getMessage() == "bad request (3 messages before were left out)"
