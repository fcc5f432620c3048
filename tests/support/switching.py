"""A volume with several revisions of a tiny model, a server that follows it, and clients that tell who answered them.

Each revision has other weights, so that the text of an answer at temperature 0 tells which model gave it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from paddock.engine.oracle import MARGIN_BYTES
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run.follow import PromotedName
from paddock.lifecycle.run.serve import ServeRequest, make_spec
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.model.names import Revision
from paddock.model.reference import Reference, SnapshotId
from paddock.serving.spec import ServeSpec
from paddock.settings import Settings
from tests.support.gguf import STRING, TYPE_Q8_0, U32, tiny_llama
from tests.support.serving import RunningServer, running
from tests.support.stores import MODEL, publish
from tests.support.waiting import wait_for, wait_for_value

CONTEXT_TOKENS = 2048
LONG, SHORT = 900, 100
"""Tokens of answers. A long one does not end before its engine is suspended."""


def model_bytes(layers: int, *, silent: bool = False) -> bytes:
    file = tiny_llama(layers=layers, kind=TYPE_Q8_0)
    file.set("llama.context_length", U32, CONTEXT_TOKENS).set("general.name", STRING, f"tiny {layers}")
    if silent:
        for tensor in file.tensors:
            tensor.data = bytes(len(tensor.content()))
    return file.to_bytes()


@dataclass
class SwitchingVolume:
    """A volume with the revisions `a`, `b` and `c` of one model, the first of which is promoted, and `f`,
    whose weights are all zero: it loads, and its canary fails.

    `machine` is what the plans are made for, and `planned` the snapshots that were planned. A plan takes a second, so
    each is made once for a machine with much free memory and once for one with little. `seen` has what a server that
    follows the volume saw at each look.
    """

    clients: Clients
    manifests: dict[str, Manifest]
    machine: Callable[[], Machine] = this_machine
    planned: list[SnapshotId] = field(default_factory=list)
    seen: list[SnapshotId | None] = field(default_factory=list)
    _specs: dict[tuple[SnapshotId, bool], ServeSpec] = field(default_factory=dict)

    def promote(self, letter: str) -> None:
        self.clients.volume.promote(self.manifests[letter].id, reason="test")

    def rollback(self) -> None:
        self.clients.volume.rollback(MODEL, reason="test")

    def label(self, letter: str) -> str:
        id = self.manifests[letter].id
        return f"{id.variant}@{id.revision}"

    def in_use(self, letter: str) -> bool:
        return self.clients.volume.in_use(self.manifests[letter].id)

    def plan(self, manifest: Manifest, snapshot: Path, machine: Machine) -> ServeSpec:
        self.planned.append(manifest.id)
        request = ServeRequest(context_tokens=CONTEXT_TOKENS // 2, parallel=2)
        key = manifest.id, machine.ram_available_bytes < 2 * MARGIN_BYTES
        if key not in self._specs:
            path = self.clients.volume.snapshot_path(manifest.id)  # `snapshot` lives as long as its lease
            self._specs[key] = make_spec(self.clients, manifest, path, request, machine=machine)
        return self._specs[key]

    def spec(self, letter: str) -> ServeSpec:
        manifest = self.manifests[letter]
        return self.plan(manifest, self.clients.volume.snapshot_path(manifest.id), this_machine())

    def followed(self, name: str = str(MODEL)) -> PromotedName:
        def machine() -> Machine:
            return self.machine()

        return _SeenName(self.clients.volume, Reference.parse(name), self.plan, machine=machine, seen=self.seen)

    def wait_until_seen(self, letter: str) -> None:
        """Wait until a server that follows has seen a revision, and acted on that: it looks again only then."""
        looks = len(self.seen)
        wait_for(lambda: self.seen[looks:].count(self.manifests[letter].id) >= 2)


class _SeenName(PromotedName):
    """A name that records what a server saw at each look."""

    def __init__(self, *arguments: Any, seen: list[SnapshotId | None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seen = seen

    def promoted(self) -> SnapshotId | None:
        found = super().promoted()
        self._seen.append(found)
        return found


def machine_for_one_engine() -> Machine:
    """A machine whose free memory suffices for a tiny engine only once the one that runs has ended."""
    return replace(this_machine(), ram_available_bytes=MARGIN_BYTES + 2**19, gpus=())


def make_switching_volume(root: Path) -> SwitchingVolume:
    clients = connect(Settings(volume=root / "models", threads=1))
    clients.volume.prepare()
    contents = {letter: model_bytes(layers) for layers, letter in enumerate("abc", 1)}
    contents["f"] = model_bytes(1, silent=True)
    volume = SwitchingVolume(
        clients,
        {
            letter: publish(
                clients.volume, Revision(letter * 40), {"tiny-Q8_0.gguf": content}, root / f"scratch-{letter}"
            )
            for letter, content in contents.items()
        },
    )
    volume.promote("a")
    return volume


@dataclass(frozen=True)
class StreamResult:
    """A streamed completion. `problem` is empty for one that is complete."""

    revision: str
    text: str
    problem: str = ""


def stream(client: httpx.Client, *, max_tokens: int = 32, on_start: Callable[[], None] = lambda: None) -> StreamResult:
    """Stream one completion at temperature 0; `on_start` is called after its first chunk."""
    body = {"prompt": "Once", "max_tokens": max_tokens, "temperature": 0, "stream": True}
    revision, text, done, started = "", "", False, False
    try:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            revision = answer.headers.get("x-paddock-revision", "")
            if answer.status_code != 200:
                return StreamResult(revision, "", f"{answer.status_code} {answer.read().decode()}")
            for line in answer.iter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    done = True
                elif data:
                    event = json.loads(data)
                    if "error" in event:
                        return StreamResult(revision, text, str(event["error"]))
                    text += event["choices"][0]["text"]
                    if not started:
                        started = True
                        on_start()
    except httpx.HTTPError as error:
        return StreamResult(revision, text, repr(error))
    return StreamResult(revision, text, "" if done else "no [DONE]")


@contextmanager
def streaming(url: str, *, clients: int = 4, max_tokens: int = 32) -> Iterator[list[StreamResult]]:
    """Clients that stream completions one after another while the block runs. The list is complete after the block."""
    stop, results = threading.Event(), list[StreamResult]()

    def work() -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, timeout=120, limits=limits, verify=False) as client:
            while not stop.is_set():
                results.append(stream(client, max_tokens=max_tokens))

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)


def unexpected(results: Sequence[StreamResult], texts: Collection[tuple[str, str]]) -> list[StreamResult]:
    """The streams that are not complete, or have not the text of the revision that they name (`texts` has both)."""
    return [one for one in results if one.problem or (one.revision, one.text) not in texts]


class FollowingServer:
    """A server that follows a volume. `texts` has (revision, text) of each answer that its revisions can give."""

    def __init__(self, volume: SwitchingVolume, served: RunningServer, client: httpx.Client) -> None:
        self.volume = volume
        self.served = served
        self.client = client
        self.texts: set[tuple[str, str]] = set()

    @property
    def health(self) -> dict[str, object]:
        value: dict[str, object] = self.client.get("/health").json()
        return value

    def serves(self, letter: str) -> bool:
        return (self.health["revision"], self.health["status"]) == (letter * 40, "ok")

    def switch(self, letter: str) -> None:
        self.volume.promote(letter)
        self.volume.wait_until_seen(letter)  # a revision that failed is tried again only after another was seen
        wait_for(lambda: self.serves(letter))

    def learn_texts(self) -> None:
        """Remember the texts that `a` and `b` answer, long and short."""
        for letter in "ba":
            self.switch(letter)
            for max_tokens in (LONG, SHORT):
                answer = stream(self.client, max_tokens=max_tokens)
                assert (answer.revision, answer.problem) == (self.volume.label(letter), "")
                self.texts.add((answer.revision, answer.text))
        assert len({text for _, text in self.texts}) == 4

    def failures(self) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if 'switches_total{result="failed"}' in line), 0.0)

    def new_engine(self, old: Sequence[psutil.Process]) -> psutil.Process:
        """Wait until another engine is started."""
        pids = {process.pid for process in old}
        return wait_for_value(
            lambda: next((process for process in self.served.engines if process.pid not in pids), None), every_s=0.002
        )

    @contextmanager
    def suspended_stream(self) -> Iterator[tuple[psutil.Process, Future[StreamResult]]]:
        """A stream of the current engine, which is suspended after the first chunk, and resumed after the block."""
        (engine,) = self.served.engines
        began = threading.Event()

        def suspend() -> None:
            engine.suspend()
            began.set()

        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=self.served.url, timeout=60) as client:
            result = pool.submit(stream, client, max_tokens=LONG, on_start=suspend)
            try:
                assert began.wait(30)
                yield engine, result
            finally:
                with suppress(psutil.NoSuchProcess):
                    engine.resume()


@contextmanager
def following_server(volume: SwitchingVolume) -> Iterator[FollowingServer]:
    with (
        running(volume.spec("a"), follows=volume.followed()) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        yield FollowingServer(volume, served, client)
