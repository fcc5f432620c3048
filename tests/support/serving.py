"""Serve the real model: in a thread of this process, or with the command `paddock serve`; and send chats to it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.local.hub import LocalHub, serve_hub
from paddock.chat.template import choose_chat_format
from paddock.engine.oracle import measure_memory
from paddock.engine.parameters import Parameters
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.profile import PROFILES
from paddock.serving.engine.llama_server import LlamaServerProgram, find_program
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.http.binding import Binding
from paddock.serving.http.bodies import BodyLimits
from paddock.serving.service import Callbacks, ServerAddress, ServiceLimits, serve
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.follow import FollowedName
from paddock.serving.switch.guard import PromotionGuard
from paddock.settings import Settings
from paddock.store.usage import Usage
from tests.support.engine import real_model
from tests.support.forked import Command
from tests.support.waiting import wait_for

VOCABULARY_TOKENS = 49152  # of SmolLM2
QUESTION = {"role": "user", "content": "Name three colours."}


def make_serve_spec(model: Path, *, context_tokens: int = 2048, parallel: int = 1) -> ServeSpec:
    """The specification of a model as a plan gives it, but with one thread.

    Tests run in parallel, and two threads that wait for each other on a busy machine are much slower than one.
    """
    parameters = Parameters(
        n_ctx=context_tokens * parallel, n_seq_max=parallel, n_threads=1, n_batch=512, n_gpu_layers=0
    )
    return ServeSpec(
        name="org/smollm2",
        revision="a" * 40,
        variant="Q4_1",
        quantization="Q4_1",
        file=model,
        chat=choose_chat_format(model.parent, "org/smollm2"),
        parameters=parameters,
        memory=measure_memory(model, context_tokens=parameters.n_ctx, parameters=parameters),
        profile=PROFILES["chat"],
        vocabulary_tokens=VOCABULARY_TOKENS,
    )


@dataclass
class RunningServer:
    """A server in a thread of this process. `error` is the exception that it ended with. `used_by` is the usage by
    revision, and `switched` names the revision after each switch."""

    spec: ServeSpec
    address: ServerAddress | None = None
    error: BaseException | None = None
    used: list[Usage] = field(default_factory=list)
    used_by: dict[str, Usage] = field(default_factory=dict)
    switched: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    others: frozenset[int] = field(
        default_factory=lambda: frozenset(process.pid for process in engines_of(os.getpid()))
    )
    """Pids of the engines of this process's other servers."""

    @property
    def url(self) -> str:
        assert self.address is not None
        return self.address.url

    @property
    def engines(self) -> list[psutil.Process]:
        return [process for process in engines_of(os.getpid()) if process.pid not in self.others]

    @property
    def engine(self) -> psutil.Process:
        return self.engines[0]


@contextmanager
def running(
    spec: ServeSpec,
    *,
    limits: SupervisorLimits | None = None,
    queue: int = 64,
    grace_s: float = 20.0,
    api_key: str | None = None,
    hosts: tuple[str, ...] = (),
    cors_origins: tuple[str, ...] = (),
    program: Path | None = None,
    follows: FollowedName | None = None,
    guard: PromotionGuard | None = None,
    bodies: BodyLimits | None = None,
) -> Iterator[RunningServer]:
    """Serve in a thread until the block ends. An error before the server is ready is raised.

    `program` replaces the engine's own llama-server. `follows` is looked at twenty times a second.
    """
    started, running_server = threading.Event(), RunningServer(spec)

    def ready(address: ServerAddress) -> None:
        running_server.address = address
        started.set()

    def used(revision: ServeSpec, usage: Usage) -> None:
        running_server.used.append(usage)
        running_server.used_by[revision.label] = running_server.used_by.get(revision.label, Usage()) + usage

    def work() -> None:
        try:
            serve(
                spec,
                Binding(host="127.0.0.1", port=0, api_key=api_key, hosts=hosts, cors_origins=cors_origins),
                ServiceLimits(
                    supervisor=limits or SupervisorLimits(start_s=120.0),
                    queue=queue,
                    grace_s=grace_s,
                    follow_s=0.05,
                    bodies=bodies or BodyLimits(),
                ),
                Callbacks(
                    on_ready=ready, on_usage=used, on_switch=lambda spec: running_server.switched.append(spec.label)
                ),
                program=LlamaServerProgram(program, is_own=False) if program else find_program(None),
                stop=running_server.stop,
                follows=follows,
                guard=guard,
            )
        except BaseException as error:  # the test's thread checks it
            running_server.error = error
        finally:
            running_server.ended.set()
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(150)
        if running_server.address is None and running_server.error is not None:
            raise running_server.error
        yield running_server
    finally:
        running_server.stop.set()
        thread.join(60)
        assert not thread.is_alive()


def engines_of(pid: int) -> list[psutil.Process]:
    """The engine processes below a server's process, without its trial engine."""
    processes = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            words = child.cmdline()
            if any("/trial/" in word for word in words):
                continue
            if "paddock.serving.engine.main" in words or any(word.endswith("/llama-server") for word in words[:2]):
                processes.append(child)
    return processes


@dataclass(frozen=True)
class ChatResult:
    """The result of a chat request. `complete`: a complete answer; `well_formed`: that, or a valid error response."""

    status: int
    text: str = ""
    finish: str | None = None
    error: dict[str, Any] | None = None
    cut: str = ""

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.finish in {"stop", "length"} and self.error is None and not self.cut

    @property
    def not_accepted(self) -> bool:
        """The request was not accepted: a connection in the moment of a server's shutdown meets a closed socket."""
        messages = ("Connection reset", "disconnected without sending a response")
        return self.status == 0 and any(message in self.cut for message in messages)

    @property
    def well_formed(self) -> bool:
        return self.complete or (self.error is not None and "message" in self.error and not self.cut)


NOT_LISTENING = ChatResult(0, error={"message": "no server listens"})


def ask(
    client: httpx.Client,
    *,
    stream: bool,
    max_tokens: int = 12,
    content: str = "Name three colours.",
    ignore_eos: bool = False,
) -> ChatResult:
    """Send one chat request, and read its response to the end. With `ignore_eos` the model does not end its answer
    before `max_tokens`."""
    message = {"role": "user", "content": content}
    body = {"messages": [message], "max_tokens": max_tokens, "stream": stream, "ignore_eos": ignore_eos}
    try:
        if stream:
            return _streamed(client, body)
        answer = client.post("/v1/chat/completions", json=body)
        value = answer.json()
        if answer.status_code != 200:
            return ChatResult(answer.status_code, error=value["error"])
        choice = value["choices"][0]
        return ChatResult(200, choice["message"]["content"], choice["finish_reason"])
    except httpx.ConnectError:
        return NOT_LISTENING
    except (httpx.HTTPError, ValueError) as error:
        return ChatResult(0, cut=repr(error))


def _streamed(client: httpx.Client, body: dict[str, Any]) -> ChatResult:
    text, finish, error, done = "", None, None, False
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            return ChatResult(answer.status_code, error=json.loads(answer.read())["error"])
        try:
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    assert line == ""
                    continue
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    error = event["error"]
                    continue
                choice = event["choices"][0]
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
        except httpx.HTTPError as failure:
            return ChatResult(200, text, finish, cut=repr(failure))
    return ChatResult(200, text, finish, error, "" if done or error else "no [DONE]")


def ask_many(url: str, number: int, *, at_once: int = 8, max_tokens: int = 8) -> list[ChatResult]:
    """Send `number` chat requests, every other one streamed."""
    with (
        httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=at_once), verify=False) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        requests = [
            pool.submit(ask, client, stream=index % 2 == 0, max_tokens=max_tokens, content=f"Name {index} colours.")
            for index in range(number)
        ]
        return [request.result() for request in requests]


@contextmanager
def under_load(
    url: str, *, at_once: int = 4, max_tokens: int = 24, ignore_eos: bool = False
) -> Iterator[list[ChatResult]]:
    """Clients that send requests (see `ask`) repeatedly while the block runs. The list has all results after the block.

    A client pauses after an error, so that the clients do not take the processor from an engine that restarts.
    """
    stop, answers = threading.Event(), list[ChatResult]()

    def keep_asking(number: int) -> None:
        # A connection for each request, so that the server never closes an idle one that a client then uses.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, timeout=120, limits=limits, verify=False) as client:
            while not stop.is_set():
                answers.append(ask(client, stream=number % 2 == 0, max_tokens=max_tokens, ignore_eos=ignore_eos))
                stop.wait(0.01 if answers[-1].complete else 0.2)

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)


class ServeProgram:
    """`paddock serve` in a process of its own. `output` is the JSON object that it printed."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        variables = {**os.environ, **(environment or {})}
        self.process = Command("serve", *arguments, "--port", "0", "--json", env=variables)
        wait_for(lambda: "\n" in self.process.output or self.process.poll() is not None, limit_s=120)
        self._line = self.process.output
        self.output: dict[str, Any] = json.loads(self._line) if self._line else {}

    @property
    def url(self) -> str:
        return str(self.output["address"])

    @property
    def engine(self) -> psutil.Process:
        (engine,) = engines_of(self.process.pid)
        return engine

    def end(self, number: signal.Signals = signal.SIGTERM, *, limit_s: float = 60.0) -> tuple[int, str]:
        """Send a signal, and return the exit status and standard error."""
        self.process.send_signal(number)
        return self.wait(limit_s=limit_s)

    def wait(self, *, limit_s: float = 60.0) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=limit_s)
        assert out == self._line  # it has printed its one object
        return self.process.wait(), err

    def __enter__(self) -> ServeProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__()


def has_restarted(url: str, restarts: int) -> bool:
    """Whether the engine is ready after so many restarts."""
    with suppress(httpx.HTTPError):
        health = httpx.get(f"{url}/health", timeout=5, verify=False).json()  # loading certificates takes 70 ms
        return bool(health.get("status") == "ok" and health.get("restarts") == restarts)
    return False


def any_complete(answers: list[ChatResult]) -> bool:
    return any(answer.complete for answer in answers)


@pytest.fixture(scope="session")
def serve_spec() -> ServeSpec:
    """The specification of the real model for one request at a time."""
    return make_serve_spec(real_model())


@pytest.fixture(scope="session")
def parallel_serve_spec() -> ServeSpec:
    """The specification of the real model for two parallel requests."""
    return make_serve_spec(real_model(), parallel=2)


REAL_MODEL_ID = "org/smollm2-GGUF"
REAL_MODEL_NAME = ModelName.parse(REAL_MODEL_ID)


@pytest.fixture(scope="session")
def promoted_model(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """The clients of a volume with the real model, promoted. Its Hub has been stopped."""
    home = tmp_path_factory.mktemp("promoted")
    with serve_hub(LocalHub(home / "hub")) as service:
        service.repository(REAL_MODEL_ID).commit({"smollm2-Q4_1.gguf": real_model(), "config.json": b"{}"})
        clients = connect(Settings(volume=home / "models", hub_endpoint=service.address))
        pull(clients, Reference(REAL_MODEL_NAME))
    return clients
