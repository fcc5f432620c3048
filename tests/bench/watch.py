"""Measure what the watch after a promotion adds to a request: a server that watches beside one that does not.

Both serve the same volume with an engine that answers at once, so that the server's own work is compared, and have
followed the same promotion. They answer in turn, since the machine is shared; the medians of their requests per second
and of their processor time are compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
import psutil

from paddock.lifecycle.clients import connect
from paddock.model.names import Revision
from paddock.settings import Settings
from tests.support.llama_server import llama_server_with
from tests.support.serving import ServeProgram
from tests.support.stores import MODEL, id_of, publish
from tests.support.switching import model_bytes
from tests.support.waiting import wait_for

REQUESTS = 300
MIN_RATIO = 0.97
BODY = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8}


def run(rounds: int) -> bool:
    """Print the results, and return whether every bound is met."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as work:
        root = Path(work)
        clients = connect(Settings(volume=root / "models"))
        clients.volume.prepare()
        for layers, letter in enumerate("ab", 1):
            publish(clients.volume, Revision(letter * 40), {"tiny-Q8_0.gguf": model_bytes(layers)}, root)
        clients.volume.promote(id_of(Revision("a" * 40)), reason="first")
        program = llama_server_with(root / "llama-server", status=501, content_type="text/plain", body="")
        common = {"PADDOCK_VOLUME": str(clients.volume.root), "PADDOCK_LLAMA_SERVER": str(program)}
        arguments = (str(MODEL), "--ctx", "512")
        with (
            ServeProgram(*arguments, environment={**common, "PADDOCK_WATCH_S": "3600"}) as with_watch,
            ServeProgram(*arguments, environment={**common, "PADDOCK_WATCH_S": "0"}) as without,
        ):
            clients.volume.promote(id_of(Revision("b" * 40)), reason="second")
            for server in (with_watch, without):
                wait_for(partial(_serves, server, "b"))
                _ask(server)  # a warm-up
            wait_for(lambda: _health(with_watch)["watch"])
            pairs = [(_ask(with_watch), _ask(without)) for _ in range(rounds)]
            watch = _health(with_watch)["watch"]
            assert isinstance(watch, dict)
            assert watch["state"] == "watching"
    held = [_compare("wall time", [(one[0], other[0]) for one, other in pairs])]
    held.append(_compare("processor time", [(one[1], other[1]) for one, other in pairs]))
    return all(held)


def _serves(server: ServeProgram, letter: str) -> bool:
    return _health(server)["revision"] == letter * 40


def _health(server: ServeProgram) -> dict[str, object]:
    value: dict[str, object] = httpx.get(f"{server.url}/health", timeout=30).json()
    return value


def _ask(server: ServeProgram) -> tuple[float, float]:
    """(wall time, processor time of the server) of REQUESTS requests, in seconds."""
    process = psutil.Process(server.process.pid)
    before, began = process.cpu_times(), time.perf_counter()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(REQUESTS):
            client.post("/v1/chat/completions", json=BODY).raise_for_status()
    after = process.cpu_times()
    return time.perf_counter() - began, after.user + after.system - before.user - before.system


def _compare(what: str, pairs: list[tuple[float, float]]) -> bool:
    ours, theirs = (REQUESTS / statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(without / watched for watched, without in pairs)
    holds = ratio >= MIN_RATIO
    print(
        f"requests by {what}: {ours:.0f}/s with a watch, {theirs:.0f}/s without one, ratio {ratio:.3f}"
        f" (bound: {MIN_RATIO}){'' if holds else ': missed'}"
    )
    return holds
