"""The small files of a snapshot are fetched beside the large ones, and the first error ends all of them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence

import pytest

from infra.local.hub import HubService
from paddock.errors import TransferRefused
from paddock.lifecycle.acquire.acquire import AcquireRequest
from paddock.lifecycle.acquire.pull import pull_with
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import PlainRunner
from paddock.model.acquired import Acquired
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.transfer.progress import Progress, ProgressListener
from tests.support.forked import Command
from tests.support.segmented_model import segmented_model
from tests.support.waiting import wait_for

NAME = "org/beside-GGUF"
MODEL = ModelName.parse(NAME)
FILE = "beside-F32.gguf"
SMALL = [f"part-{number}.json" for number in range(4)]
SMALL_BYTES = 600


class Finished(ProgressListener):
    """The names of the files in the order in which they were verified."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, total_bytes: int) -> None: ...

    def on_progress(self, progress: Progress) -> None:
        if progress.is_verified:
            self.names.append(progress.label.rpartition(" ")[2])

    def on_finish(self, acquired: Sequence[Acquired]) -> None: ...


@pytest.fixture
def content(hub: HubService) -> bytes:
    """The large file of a repository that also has small ones, two of them with the same bytes."""
    content = segmented_model()
    small = {name: json.dumps({"text": f"{min(number, 2):0{SMALL_BYTES}}"}) for number, name in enumerate(SMALL)}
    hub.repository(NAME).commit({FILE: content, **{name: text.encode() for name, text in small.items()}})
    return content


def slow_down(hub: HubService, *, each_s: float) -> None:
    for name in SMALL:
        hub.inject("slow", f"{NAME}/{name}", times=None, bytes_per_s=SMALL_BYTES / each_s)


def test_small_files_are_fetched_beside_the_large_one(clients: Clients, hub: HubService, content: bytes) -> None:
    each_s = 1.5
    slow_down(hub, each_s=each_s)
    finished = Finished()
    began = time.monotonic()
    pulled = pull_with(PlainRunner(clients, listener=finished), AcquireRequest(Reference(MODEL)))
    assert time.monotonic() - began < len(SMALL) * each_s
    assert finished.names[0] == FILE
    assert sorted(finished.names[1:]) == SMALL
    assert [one.file.path for one in pulled.acquired] == [*SMALL, FILE], "in the order of the plan"
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content


def test_where_steps_are_retried_files_are_fetched_one_after_the_other(
    clients: Clients, hub: HubService, content: bytes
) -> None:
    finished = Finished()
    pull_with(PlainRunner(clients, listener=finished, retry=True), AcquireRequest(Reference(MODEL)))
    assert finished.names == [*SMALL, FILE]


def test_an_error_of_a_small_file_ends_the_large_one_whose_bytes_are_kept(
    clients: Clients, hub: HubService, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_LIMIT_RATE", str(len(content) // 20))
    for where in ("file", "hub"):
        hub.inject("status", f"*/{SMALL[2]}", where=where, times=None, status=403)
    with Command("pull", NAME, "--json") as command:
        hub.wait_until(lambda stats: stats.bytes_sent.get(f"{NAME}/{FILE}", 0) > 0)
        out, _ = command.communicate(timeout=15)
    error = json.loads(out)
    assert command.returncode not in {0, 130}
    assert SMALL[2] in error["message"], error
    hub.clear_faults()
    hub.reset_stats()
    monkeypatch.delenv("PADDOCK_LIMIT_RATE")
    again = pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    assert again.transferred_bytes < sum(file.size for file in again.manifest.files)
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content


def test_an_error_of_the_large_file_ends_the_small_ones(clients: Clients, hub: HubService, content: bytes) -> None:
    slow_down(hub, each_s=600)
    hub.inject("status", f"{NAME}/{FILE}", times=None, status=404)
    began = time.monotonic()
    with pytest.raises(TransferRefused, match=FILE):
        pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    assert time.monotonic() - began < 60


def test_an_interrupted_pull_does_not_wait_for_small_files(clients: Clients, hub: HubService, content: bytes) -> None:
    slow_down(hub, each_s=600)
    with Command("pull", NAME, "--json") as command:
        wait_for(lambda: list(clients.settings.volume.glob(".paddock/blobs/sha256/*/*")))  # only they are missing
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=20)
    assert command.returncode == 130
    assert json.loads(out)["error"] == "interrupted"
