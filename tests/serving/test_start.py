"""Start of the server: a start that fails is an error with its cause, and `on_ready` is never called."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddock.errors import EngineCrashed, ServerUnavailable
from paddock.serving.engine.llama_server import LlamaServerProgram
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.http.binding import Binding
from paddock.serving.service import Callbacks, ServerAddress, ServiceLimits, serve
from paddock.serving.spec import ServeSpec
from tests.support.llama_server import llama_server_with

LOCAL = Binding(host="127.0.0.1", port=0, api_key=None)
LIMITS = ServiceLimits(supervisor=SupervisorLimits(start_s=60.0), queue=4, grace_s=5.0)


class DatagramBinding(Binding):
    """A binding with a datagram socket, which the HTTP server cannot serve."""

    def listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((self.host, self.port))
        return listener


@pytest.fixture
def program(tmp_path: Path) -> LlamaServerProgram:
    path = llama_server_with(tmp_path / "llama-server", status=501, content_type="text/plain", body="")
    return LlamaServerProgram(path, is_own=False)


@pytest.fixture
def addresses() -> list[ServerAddress]:
    """The arguments of each call of `on_ready`."""
    return []


@pytest.fixture
def callbacks(addresses: list[ServerAddress]) -> Callbacks:
    return Callbacks(on_ready=addresses.append, on_usage=lambda *_: None)


def test_an_http_server_that_does_not_start_is_an_error(
    serve_spec: ServeSpec, program: LlamaServerProgram, callbacks: Callbacks, addresses: list[ServerAddress]
) -> None:
    binding = DatagramBinding(host="127.0.0.1", port=0, api_key=None)
    with pytest.raises(ServerUnavailable, match="the HTTP server ended: ValueError: A Stream Socket was expected"):
        serve(serve_spec, binding, LIMITS, callbacks, program=program)
    assert addresses == []


def test_an_engine_that_is_never_ready_is_an_error(
    serve_spec: ServeSpec, tmp_path: Path, callbacks: Callbacks, addresses: list[ServerAddress]
) -> None:
    program = tmp_path / "llama-server"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] || exec sleep 600\n')
    program.chmod(0o755)
    limits = ServiceLimits(supervisor=SupervisorLimits(start_s=0.5), queue=4, grace_s=5.0)
    with pytest.raises(EngineCrashed, match=r"not ready within 0\.5 s"):
        serve(serve_spec, LOCAL, limits, callbacks, program=LlamaServerProgram(program, is_own=False))
    assert addresses == []


def test_a_program_that_cannot_be_run_is_an_error(
    serve_spec: ServeSpec, tmp_path: Path, callbacks: Callbacks, addresses: list[ServerAddress]
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("not a program")
    with pytest.raises(EngineCrashed, match="PermissionError"):
        serve(serve_spec, LOCAL, LIMITS, callbacks, program=LlamaServerProgram(program, is_own=False))
    assert addresses == []


def test_a_stop_before_the_model_is_ready_is_an_error(
    serve_spec: ServeSpec, program: LlamaServerProgram, callbacks: Callbacks, addresses: list[ServerAddress]
) -> None:
    stop = threading.Event()
    stop.set()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, serve_spec, LOCAL, LIMITS, callbacks, program=program, stop=stop)
        with pytest.raises(ServerUnavailable, match="was stopped before its model was ready"):
            serving.result()
    assert addresses == []


def test_a_stop_after_the_model_was_ready_is_no_error(
    serve_spec: ServeSpec, program: LlamaServerProgram, addresses: list[ServerAddress]
) -> None:
    stop = threading.Event()

    def ready(address: ServerAddress) -> None:
        addresses.append(address)
        stop.set()

    callbacks = Callbacks(on_ready=ready, on_usage=lambda *_: None)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(serve, serve_spec, LOCAL, LIMITS, callbacks, program=program, stop=stop).result() is None
    assert len(addresses) == 1


def test_an_exception_of_the_callback_ends_the_server(serve_spec: ServeSpec, program: LlamaServerProgram) -> None:
    def ready(_: ServerAddress) -> None:
        raise BrokenPipeError("standard output is closed")

    with pytest.raises(BrokenPipeError):
        serve(serve_spec, LOCAL, LIMITS, Callbacks(on_ready=ready, on_usage=lambda *_: None), program=program)
