"""Pulls in processes of their own: killed at random moments, interrupted, and many at once on one volume."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.clients import Clients
from paddock.model.names import ModelName
from tests.support.fault_totals import Faults
from tests.support.forked import Command
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, segmented_model

NAME = "org/larger-GGUF"
MODEL = ModelName.parse(NAME)
FILE = "larger-F32.gguf"
PULL = ("pull", NAME, "--json")
RATE = 10 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""Bytes that a preflight reads of a file with a small header."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PADDOCK_SEGMENT_BYTES": str(SEGMENT_BYTES), "PADDOCK_CONNECTIONS": "4", **more}


def pull(variables: dict[str, str]) -> dict[str, Any]:
    """What a pull that nothing disturbs prints."""
    with Command(*PULL, env=variables) as command:
        out, err = command.communicate()
    assert command.returncode == 0, err
    printed: dict[str, Any] = json.loads(out)
    return printed


def fetched_twice(hub: HubService, versions: int, size: int, *, header_bytes: int) -> int:
    """Bytes of weights beyond `versions` whole files; the preflights have read `header_bytes` of them besides."""
    return hub.stats().bytes_sent[f"{NAME}/{FILE}"] - versions * size - header_bytes


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kills", [3, pytest.param(1000, marks=pytest.mark.torture)])
def test_a_pull_survives_kill_9_at_random_moments(
    clients: Clients, hub: HubService, faults: Faults, kills: int
) -> None:
    faults.add(kills)
    slowly = environment(PADDOCK_LIMIT_RATE=str(RATE))
    hub.repository(NAME).commit({FILE: segmented_model(0)})
    with Command("--version"):
        pass  # the first command of a session waits for the imports
    started = time.monotonic()
    pull(slowly)
    undisturbed_s = time.monotonic() - started
    hub.reset_stats()
    moments = random.Random(20261124)  # the same in every run
    killed = in_transfer = survived = versions = header_bytes = 0
    while killed < kills:
        versions += 1
        content = segmented_model(versions)
        hub.repository(NAME).commit({FILE: content})
        # Killed again and again, until one gets through, as the last one may: then there is something new to fetch.
        while True:
            before = hub.stats().total_bytes_sent
            # One of four is killed at any time, the others when the Hub has sent so many bytes of the weights.
            after_s = moments.uniform(0.1, undisturbed_s) if killed % 4 == 0 else None
            after_bytes = HEADER_BYTES + moments.randrange(1, len(content) // 2)
            with Command(*PULL, env=slowly) as child:
                began = time.monotonic()
                while child.poll() is None and not (
                    killed < kills
                    and (
                        time.monotonic() - began > after_s
                        if after_s is not None
                        else hub.stats().total_bytes_sent - before >= after_bytes
                    )
                ):
                    time.sleep(0.02)
                child.kill()
                returned = child.wait()
            sent = hub.stats().total_bytes_sent - before
            header_bytes += min(sent, HEADER_BYTES)
            if returned != -signal.SIGKILL:
                assert returned == 0
                break
            killed += 1
            in_transfer += sent > HEADER_BYTES
            assert_volume_consistent(clients, MODEL)
            survived += 1
        assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content
        assert list(clients.volume.partial.iterdir()) == []
        if versions % 10 == 0:
            clients.volume.remove(MODEL)
    twice = fetched_twice(hub, versions, len(content), header_bytes=header_bytes)
    print(f"{killed} kills injected, {in_transfer} in a transfer; {survived} states right, {versions} versions whole;")
    print(f"{twice / SEGMENT_BYTES:.1f} segments fetched twice in all")
    assert in_transfer >= kills / 5
    # A window of one segment is in flight, and what the sockets held.
    assert twice <= in_transfer * 1.5 * SEGMENT_BYTES


def test_a_pull_that_is_killed_after_its_blob_was_stored_leaves_no_partial_file(
    clients: Clients, hub: HubService
) -> None:
    content = segmented_model()
    hub.repository(NAME).commit({FILE: content})
    dies = (
        "import os; from paddock.transfer.fetch import Staged; Staged.discard = lambda self: os._exit(9);"
        "from paddock.cli.main import main; main()"
    )
    doomed = [sys.executable, "-c", dies, "pull", NAME]
    dead = subprocess.run(doomed, env=environment(), capture_output=True, text=True, check=False)
    assert dead.returncode == 9, dead.stderr
    (left,) = clients.volume.partial.iterdir()
    assert [path.name for path in left.glob("*/*")] == ["journal"]
    hub.reset_stats()
    assert pull(environment())["bytes_transferred"] == 0
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content
    assert list(clients.volume.partial.iterdir()) == []


def test_an_interrupted_pull_stops_soon_and_is_resumed(clients: Clients, hub: HubService) -> None:
    content = segmented_model()
    hub.repository(NAME).commit({FILE: content})
    hub.reset_stats()
    slowly = environment(PADDOCK_LIMIT_RATE=str(2 * SEGMENT_BYTES))
    with Command(*PULL, env=slowly) as child:
        hub.wait_until(lambda stats: stats.total_bytes_sent > 4 * SEGMENT_BYTES)
        before = hub.stats().total_bytes_sent
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    assert hub.stats().total_bytes_sent - before <= 4 * SEGMENT_BYTES, "at its rate, those of two seconds"
    assert child.returncode == 130
    assert json.loads(out)["error"] == "interrupted"
    assert pull(environment())["bytes_transferred"] <= len(content) - 2 * SEGMENT_BYTES
    assert fetched_twice(hub, 1, len(content), header_bytes=2 * HEADER_BYTES) <= 1.5 * SEGMENT_BYTES


@pytest.mark.parametrize(
    ("variable", "requests"),
    [({}, 38), ({"HF_HUB_ENABLE_HF_TRANSFER": "1"}, 11), ({"PADDOCK_TRANSFER": "xet"}, 1)],
    ids=["our own", "hf_transfer", "huggingface_hub"],
)
def test_the_engine_that_is_asked_for_moves_the_bytes(
    clients: Clients, hub: HubService, variable: dict[str, str], requests: int
) -> None:
    content = segmented_model()
    hub.repository(NAME).commit({FILE: content})
    hub.reset_stats()
    with Command(*PULL, env=environment(**variable)) as command:
        _, err = command.communicate()
    assert command.returncode == 0, err
    assert "Warning" not in err
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content
    asked = {path: count for path, count in hub.stats().requests.items() if path.endswith(f"/{FILE}") and "GET" in path}
    # One for the header; then ranges of 256 KiB; chunks of 1 MiB, and one for the size; one body. Ranges are up to four
    # times as long where this machine answers slowly.
    assert 1 + requests // 4 <= max(asked.values()) <= 1 + requests, asked


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "shape"),
    [
        pytest.param(4, {}, id="4, 9 MB"),
        pytest.param(16, {}, id="16, 9 MB", marks=pytest.mark.torture),
        pytest.param(16, {"layers": 4, "width": 2048, "inner": 8192}, id="16, 1 GB", marks=pytest.mark.torture),
    ],
)
def test_of_many_processes_on_one_volume_one_fetches_and_all_succeed(
    clients: Clients, hub: HubService, faults: Faults, count: int, shape: dict[str, int]
) -> None:
    faults.add(count)
    content = segmented_model(**shape)
    hub.repository(NAME).commit({FILE: content})
    hub.reset_stats()
    more = {} if shape else {"PADDOCK_LIMIT_RATE": str(2 * SEGMENT_BYTES)}  # so that all of them meet it half done
    if shape:
        more["PADDOCK_SEGMENT_BYTES"] = str(64 * SEGMENT_BYTES)
    with ExitStack() as all_of_them:
        children = [all_of_them.enter_context(Command(*PULL, env=environment(**more))) for _ in range(count)]
        answers = [json.loads(child.communicate(timeout=600)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * count
    assert {answer["promoted"] for answer in answers} == {True}
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content
    assert_volume_consistent(clients, MODEL)
    sent = hub.stats().bytes_sent[f"{NAME}/{FILE}"]
    print(f"{count} processes, {len(content)} bytes: the hub sent {sent / len(content):.3f} times the model")
    assert sum(answer["bytes_transferred"] for answer in answers) == len(content)
    assert len(content) <= sent <= len(content) + count * HEADER_BYTES
