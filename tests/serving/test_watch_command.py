"""`paddock serve` under load with the real model: what it keeps, and what it rolls back by itself.

pytest -m torture -s tests/serving/test_watch_command.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.measure.paired_answers import BLOCK_S, MIN_BLOCKS
from paddock.model.hardware import this_machine
from paddock.model.names import Revision
from paddock.settings import Settings
from tests.lifecycle.test_gate_speed import store_tuning
from tests.serving.test_watch import REFUSING, TURNS, model_bytes
from tests.support.engine import real_model
from tests.support.serving import ChatResult, ServeProgram, ask, engines_of
from tests.support.stores import MODEL, publish
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1200)]
TEMPLATE = b"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
REFUSAL = b"{% for m in messages if 'colours' in m.content %}{{ raise_exception('no colours') }}{% endfor %}"
_CONTEXT = 1024
BEFORE_S = 1.5 * MIN_BLOCKS * BLOCK_S
"""How long the revision before answers: without so many blocks of time, its speed is not compared."""
POLL_S = 2.0
"""Often enough, and so seldom that this process uses no more of the processor than before: answers at another load of
the machine are not compared."""


@dataclass
class Load:
    """Chats of several clients. `answers` has them all, with the time in which each ended."""

    answers: list[tuple[float, ChatResult]]

    def since(self, when: float) -> list[ChatResult]:
        return [answer for at, answer in self.answers if at >= when]


@contextmanager
def steady_load(url: str, *, at_once: int = 1) -> Iterator[Load]:
    """Clients that chat, each with prompts and answers of changing length, with a pause between two of them."""
    stop, load = threading.Event(), Load([])

    def keep_asking(client_number: int) -> None:
        with httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            number = client_number
            while not stop.is_set():
                number += 7
                content = "Name three colours. " * (1 + number % 11)
                answer = ask(client, stream=number % 2 == 0, max_tokens=16 + number % 17, content=content)
                load.answers.append((time.monotonic(), answer))
                stop.wait(0.1)

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)


def with_other_case(content: bytes, at: int) -> bytes:
    """The model with another case of one letter, so that it has the same weights in other bytes."""
    return content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :]


def with_template(content: bytes, template: bytes) -> bytes:
    """The model with other bytes at the beginning of its chat template, filled up with spaces."""
    at = content.index(TEMPLATE)
    end = content.index(b"{{'<|im_start|>' + message['role']", at)
    return content[:at] + template.ljust(end - at) + content[end:]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """A volume with the real model as `a`, which is promoted; `b`, `c` and `e`, with other names in them, of which `e`
    was tuned to one thread; and `f`, whose chat template refuses what is asked."""
    root = tmp_path_factory.mktemp("watch-command")
    clients = connect(Settings(volume=root / "models"))
    clients.volume.prepare()
    content = real_model().read_bytes()
    name = content.index(b"general.name") + len(b"general.name") + 4 + 8
    loop = b"{% for message in messages %}"
    contents = {
        "a": content,
        **{letter: with_other_case(content, name + number) for number, letter in enumerate("bce")},
        "f": with_template(content, REFUSAL + loop),
    }
    manifests = {
        letter: publish(clients.volume, Revision(letter * 40), {"model-Q4_1.gguf": content}, root)
        for letter, content in contents.items()
    }
    store_tuning(clients, manifests["e"], {"n_threads": 1, "n_threads_batch": 1})
    promote_snapshot(clients, manifests["a"].id, "first")
    return clients


def promote(clients: Clients, letter: str) -> None:
    (id,) = (id for id in clients.volume.ids(MODEL) if id.revision == letter * 40)
    promote_snapshot(clients, id, "by hand")


def health(url: str) -> dict[str, object]:
    value: dict[str, object] = httpx.get(f"{url}/health", timeout=30).json()
    return value


def serves(url: str, letter: str) -> Callable[[], bool]:
    return lambda: (health(url)["revision"], health(url)["status"]) == (letter * 40, "ok")


def state(url: str) -> object:
    watch = health(url)["watch"]
    return watch["state"] if isinstance(watch, dict) else None


@contextmanager
def served_under_load(clients: Clients) -> Iterator[tuple[ServeProgram, Load]]:
    environment = {"PADDOCK_VOLUME": str(clients.volume.root), "PADDOCK_WATCH_S": "180", "PADDOCK_THREADS": ""}
    arguments = (str(MODEL), "--ctx", str(_CONTEXT), "--parallel", "1")
    with ServeProgram(*arguments, environment=environment) as program, steady_load(program.url) as load:
        yield program, load


def test_a_sound_promotion_is_kept_and_a_failing_or_dying_one_rolled_back(clients: Clients) -> None:
    with served_under_load(clients) as (program, load):
        url = program.url
        time.sleep(BEFORE_S)
        promote(clients, "b")
        wait_for(serves(url, "b"), limit_s=120)
        wait_for(lambda: state(url) == "kept", limit_s=300, every_s=POLL_S)
        watch = health(url)["watch"]
        print("\nsound:", watch)
        assert "times the one before" in str(watch), "the speed was compared"
        assert [one for one in load.since(0) if not one.complete] == []

        promote(clients, "f")
        wait_for(serves(url, "f"), limit_s=120, every_s=0.1)
        failing = time.monotonic()
        decided_s = wait_for(lambda: clients.volume.history(MODEL)[-1].rollback, limit_s=120, every_s=0.1)
        back_s = decided_s + wait_for(serves(url, "b"), limit_s=120, every_s=0.1)
        last = clients.volume.history(MODEL)[-1]
        times = f"rolled back after {decided_s:.1f} s, loaded after {back_s:.1f} s"
        print(f"failing: {times}, {len(load.since(failing))} answers: {last.reason}")
        assert decided_s < 60
        assert last.revision == "b" * 40
        assert last.reason.startswith("rolled back by its server: ")
        answered = time.monotonic()
        time.sleep(90)
        assert load.since(answered + 2)
        assert [one for one in load.since(answered + 2) if not one.complete] == []
        assert state(url) == "rolled-back"

        promote(clients, "c")
        wait_for(serves(url, "c"), limit_s=120, every_s=0.1)
        dying = time.monotonic()

        def kill() -> bool:
            now = health(url)
            engines = engines_of(program.process.pid)
            if (now["revision"], now["status"], len(engines)) == ("c" * 40, "ok", 1):
                engines[0].kill()
            return clients.volume.history(MODEL)[-1].rollback

        decided_s = wait_for(kill, limit_s=120, every_s=0.2)
        back_s = decided_s + wait_for(serves(url, "b"), limit_s=120, every_s=0.1)
        last = clients.volume.history(MODEL)[-1]
        times = f"rolled back after {decided_s:.1f} s, loaded after {back_s:.1f} s"
        print(f"dying: {times}, {len(load.since(dying))} answers: {last.reason}")
        assert decided_s < 60
        assert last.revision == "b" * 40


@pytest.mark.skipif(this_machine().cores < 2, reason="with one core, one thread is no slower: needs two cores")
def test_a_slow_promotion_is_rolled_back(clients: Clients) -> None:
    with served_under_load(clients) as (program, load):
        url = program.url
        before = str(health(url)["revision"])
        time.sleep(BEFORE_S)
        promote(clients, "e")
        wait_for(serves(url, "e"), limit_s=120)
        slow = time.monotonic()
        wait_for(serves(url, before[0]), limit_s=400, every_s=POLL_S)
        last = clients.volume.history(MODEL)[-1]
        print(f"\nslow: back after {time.monotonic() - slow:.1f} s: {last.reason}")
        assert "times the one before" in last.reason
        assert [one for one in load.since(slow) if not one.complete] == []


@contextmanager
def served_read_only(root: Path, unshare: str) -> Iterator[str]:
    """`paddock serve` with the volume mounted read-only for it alone. Yields its address."""
    shell = 'set -e; mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"'
    program = [sys.executable, "-m", "paddock", "serve", str(MODEL), "--ctx", "512", "--port", "0", "--json"]
    environment = {**os.environ, "PADDOCK_VOLUME": str(root), "PADDOCK_THREADS": "1"}
    with subprocess.Popen(
        [unshare, "-rm", "sh", "-c", shell, str(root), *program], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["address"])
        finally:
            process.terminate()


def test_on_a_read_only_volume_the_server_alone_goes_back(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `unshare -rm`: the package util-linux, and user namespaces allowed")
    clients = connect(Settings(volume=tmp_path / "models"))
    clients.volume.prepare()
    for letter, layers, template in (("a", 1, TURNS), ("b", 2, TURNS), ("f", 2, REFUSING)):
        content = {"tiny-Q8_0.gguf": model_bytes(layers, template)}
        publish(clients.volume, Revision(letter * 40), content, tmp_path)
    promote(clients, "a")
    with served_read_only(clients.volume.root, unshare) as url, steady_load(url) as load:
        promote(clients, "f")
        wait_for(lambda: state(url) == "rolled-back-here", limit_s=120)
        wait_for(serves(url, "a"))
        print("\nread-only:", health(url)["watch"])
        back = time.monotonic()
        time.sleep(5)
        assert health(url)["revision"] == "a" * 40, "the name stands for the other one still"
        assert load.since(back + 1)
        assert [one for one in load.since(back + 1) if not one.complete] == []
        assert [change.rollback for change in clients.volume.history(MODEL)] == [False, False]
        promote(clients, "b")
        wait_for(serves(url, "b"))
