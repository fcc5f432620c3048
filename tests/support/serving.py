"""The real model behind the real servers: in this process, where a test looks inside, or as the program that users
start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest

from infra import llama_tools
from infra.local.hub import LocalHub, serve_hub
from paddock.chat.template import choose_chat_format
from paddock.engine.oracle import measure_memory
from paddock.engine.parameters import Parameters
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.profile import PROFILES
from paddock.serving.binding import Binding
from paddock.serving.servers import LLAMA_CPP_PYTHON, LLAMA_SERVER, ServerName
from paddock.serving.service import Callbacks, ServerAddress, ServiceLimits, serve
from paddock.serving.spec import ServeSpec
from paddock.serving.supervisor import SupervisorLimits
from paddock.settings import Settings
from paddock.store.volume.usage import Usage
from tests.support.engine import real_model

SERVERS: tuple[ServerName, ...] = (LLAMA_CPP_PYTHON, LLAMA_SERVER)
QUESTION = {"role": "user", "content": "Name three colours."}
_BUILT = llama_tools.find_built(LLAMA_SERVER)  # before a test points the cache elsewhere


def llama_server() -> Path:
    """llama.cpp's own server; skips the test where it is not built."""
    found = shutil.which(LLAMA_SERVER)
    if found is None and _BUILT is None:
        pytest.skip("llama-server is not here: make llama-server")
    return Path(found) if found else cast(Path, _BUILT)


def program_of(server: ServerName) -> Path | None:
    return llama_server() if server == LLAMA_SERVER else None


def offer_of(model: Path, *, context_tokens: int = 2048, parallel: int = 1) -> ServeSpec:
    """The real model as a plan would offer it, on one thread: two that wait for each other on a busy machine are
    slower by far, and tests run beside others."""
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
    )


@dataclass
class Running:
    """A service in a thread of this process. `error` is what it ended with."""

    offer: ServeSpec
    server: ServerName
    address: ServerAddress | None = None
    error: BaseException | None = None
    used: list[Usage] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    others: frozenset[int] = field(default_factory=lambda: frozenset(one.pid for one in engines_of(os.getpid())))
    """The engines of other services of this process."""

    @property
    def url(self) -> str:
        assert self.address is not None
        return self.address.url

    @property
    def engine(self) -> psutil.Process:
        return next(one for one in engines_of(os.getpid()) if one.pid not in self.others)


@contextmanager
def running(
    offer: ServeSpec,
    server: ServerName,
    *,
    limits: SupervisorLimits | None = None,
    queue: int = 64,
    grace_s: float = 20.0,
    api_key: str | None = None,
    program: Path | None = None,
) -> Iterator[Running]:
    """Serve in a thread until the block ends. What the service ends with before it is ready is raised.

    `program` is another llama-server than the built one.
    """
    program = program or program_of(server)  # skips here, where pytest hears it
    stop, told, now = threading.Event(), threading.Event(), Running(offer, server)

    def ready(address: ServerAddress) -> None:
        now.address = address
        told.set()

    def work() -> None:
        try:
            serve(
                offer,
                Binding(host="127.0.0.1", port=0, api_key=api_key),
                ServiceLimits(supervisor=limits or SupervisorLimits(start_s=120.0), queue=queue, grace_s=grace_s),
                Callbacks(on_ready=ready, on_usage=now.used.append),
                program=program,
                stop=stop,
            )
        except BaseException as error:  # the test's thread judges it
            now.error = error
        finally:
            now.ended.set()
            told.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert told.wait(150)
        if now.address is None and now.error is not None:
            raise now.error
        yield now
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def engines_of(pid: int) -> list[psutil.Process]:
    """The engines' processes that serve below another one."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            words = child.cmdline()
            if "paddock.serving.engine_main" in words or any(word.endswith(LLAMA_SERVER) for word in words[:2]):
                found.append(child)
    return found


@dataclass(frozen=True)
class Answer:
    """What came back. `whole`: it is a complete answer; `clean`: it is that, or a proper error."""

    status: int
    text: str = ""
    finish: str | None = None
    error: dict[str, Any] | None = None
    cut: str = ""

    @property
    def whole(self) -> bool:
        return self.status == 200 and self.finish in {"stop", "length"} and self.error is None and not self.cut

    @property
    def unheard(self) -> bool:
        """Nobody answered, and no answer had begun: who connects in a server's last moment meets a closed socket."""
        told = ("Connection reset", "disconnected without sending a response")
        return self.status == 0 and any(words in self.cut for words in told)

    @property
    def clean(self) -> bool:
        return self.whole or (self.error is not None and "message" in self.error and not self.cut)


NOBODY = Answer(0, error={"message": "nobody listens"})


def ask(client: httpx.Client, *, stream: bool, max_tokens: int = 12, content: str = "Name three colours.") -> Answer:
    """One chat, read to its end as a client does."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "stream": stream}
    try:
        if stream:
            return _streamed(client, body)
        answer = client.post("/v1/chat/completions", json=body)
        value = answer.json()
        if answer.status_code != 200:
            return Answer(answer.status_code, error=value["error"])
        choice = value["choices"][0]
        return Answer(200, choice["message"]["content"], choice["finish_reason"])
    except httpx.ConnectError:
        return NOBODY
    except (httpx.HTTPError, ValueError) as error:
        return Answer(0, cut=repr(error))


def _streamed(client: httpx.Client, body: dict[str, Any]) -> Answer:
    text, finish, error, done = "", None, None, False
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            return Answer(answer.status_code, error=json.loads(answer.read())["error"])
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
            return Answer(200, text, finish, cut=repr(failure))
    return Answer(200, text, finish, error, "" if done or error else "no [DONE]")


def ask_many(url: str, number: int, *, at_once: int = 8, max_tokens: int = 8) -> list[Answer]:
    """Every other one streamed."""
    with (
        httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=at_once)) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        asked = [
            pool.submit(ask, client, stream=index % 2 == 0, max_tokens=max_tokens, content=f"Name {index} colours.")
            for index in range(number)
        ]
        return [one.result() for one in asked]


@contextmanager
def under_load(url: str, *, at_once: int = 8, max_tokens: int = 24) -> Iterator[list[Answer]]:
    """Clients that ask again and again while the block runs; the answers are complete after it."""
    stop, answers = threading.Event(), list[Answer]()

    def keep_asking(number: int) -> None:
        # A connection for each request: one that the server closes while it is idle says nothing about an answer.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, timeout=120, limits=limits) as client:
            while not stop.is_set():
                answers.append(ask(client, stream=number % 2 == 0, max_tokens=max_tokens))
                time.sleep(0.01)

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)


class Program:
    """`paddock serve`, as a program of its own. `said` is the object that it printed."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paddock", "serve", *arguments, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said: dict[str, Any] = json.loads(line) if line else {}

    @property
    def url(self) -> str:
        return str(self.said["address"])

    @property
    def engine(self) -> psutil.Process:
        (found,) = engines_of(self.process.pid)
        return found

    def end(self, number: signal.Signals = signal.SIGTERM, *, limit_s: float = 60.0) -> tuple[int, str]:
        """Send a signal, and return the exit status and standard error."""
        self.process.send_signal(number)
        return self.wait(limit_s=limit_s)

    def wait(self, *, limit_s: float = 60.0) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=limit_s)
        assert out == ""  # it had its one object
        return self.process.returncode, err

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def environment_of(server: ServerName) -> dict[str, str]:
    """The PATH with llama-server on it where that is wanted, and without where not."""
    places = [place for place in os.environ["PATH"].split(os.pathsep) if not Path(place, LLAMA_SERVER).exists()]
    if server == LLAMA_SERVER:
        places.insert(0, str(llama_server().parent))
    return {"PATH": os.pathsep.join(places)}


def wait_for(condition: Callable[[], Any], *, limit_s: float = 30.0) -> float:
    """Wait until a function gives something true; returns the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if condition():
            return time.monotonic() - began
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s")


def is_back(url: str, restarts: int) -> bool:
    """Whether the engine is ready after so many restarts."""
    with suppress(httpx.HTTPError):
        said = httpx.get(f"{url}/health", timeout=5).json()
        return bool(said["status"] == "ok" and said["restarts"] == restarts)
    return False


def has_whole(answers: list[Answer]) -> bool:
    return any(one.whole for one in answers)


@pytest.fixture(scope="session")
def offered() -> ServeSpec:
    """The real model for one request at a time, planned once."""
    return offer_of(real_model())


@pytest.fixture(scope="session")
def offered_twice() -> ServeSpec:
    """The real model for two requests at a time."""
    return offer_of(real_model(), parallel=2)


SHELF_NAME = "org/smollm2-GGUF"
SHELF_MODEL = ModelName.parse(SHELF_NAME)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """A volume with the real model on it, promoted; its Hub is gone."""
    home = tmp_path_factory.mktemp("shelf")
    with serve_hub(LocalHub(home / "hub")) as service:
        service.repository(SHELF_NAME).commit({"smollm2-Q4_1.gguf": real_model(), "config.json": b"{}"})
        clients = connect(Settings(volume=home / "models", hub_endpoint=service.address))
        pull(clients, Reference(SHELF_MODEL))
    return clients
