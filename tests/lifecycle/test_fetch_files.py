"""The small files of a snapshot are fetched beside the large ones, and the first error ends all of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Sequence

import pytest

from infra.local.hub import HubService
from paddock.errors import TransferRefused
from paddock.lifecycle.acquire.acquire import AcquireRequest
from paddock.lifecycle.acquire.pull import pull_with
from paddock.lifecycle.acquire.transfers import SMALL_BYTES as SMALL_FILE_BYTES
from paddock.lifecycle.acquire.transfers import fetch_files
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.steps import PlainRunner
from paddock.model.acquired import Acquired, PlannedFile
from paddock.model.artifact import RepositoryFile, SnapshotFile
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import Reference
from paddock.model.source import Expected
from paddock.planning.plan import PlanRequest
from paddock.transfer.progress import OnProgress, Progress, ProgressListener
from tests.support.damage import flip
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


def failures_of(clients: Clients) -> dict[str, float]:
    return {name: count for name, count in clients.volume.counters.read()["failures"].items() if count}


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


@pytest.mark.parametrize(("name", "value"), [("PADDOCK_CONNECTIONS", "1"), ("PADDOCK_LIMIT_RATE", "100000000")])
def test_with_one_connection_or_a_limit_files_are_fetched_one_after_the_other(
    clients: Clients, hub: HubService, content: bytes, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    finished = Finished()
    pull_with(PlainRunner(connect(), listener=finished), AcquireRequest(Reference(MODEL)))
    assert finished.names == [*SMALL, FILE]


def test_an_error_of_a_small_file_ends_the_large_one_whose_bytes_are_kept(
    clients: Clients, hub: HubService, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight(clients, NAME, PlanRequest(256))  # keeps the header
    whole_s, spans = 20, 2  # that the large file is fetched in
    hub.inject("slow", f"{NAME}/{FILE}", times=None, bytes_per_s=len(content) / whole_s / spans)
    # It is refused after it has stalled once, when bytes of the large one have come.
    hub.inject("stall", f"{NAME}/{SMALL[2]}")
    hub.inject("status", f"{NAME}/{SMALL[2]}", times=None, status=403)
    began = time.monotonic()
    with Command("pull", NAME, "--json", env={**os.environ, "PADDOCK_STALL_S": "2"}) as command:
        out, _ = command.communicate(timeout=60)
    assert time.monotonic() - began < whole_s / 2
    error = json.loads(out)
    assert error["error"] == "transfer-refused"
    assert SMALL[2] in error["message"]
    hub.clear_faults()
    again = pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    (large,) = (one for one in again.acquired if one.file.path == FILE)
    assert large.origin == "hub"
    assert large.transferred_bytes < len(content) - len(content) // whole_s
    assert (clients.volume.model_path(MODEL) / FILE).read_bytes() == content


def test_after_an_error_of_a_small_file_no_large_one_is_begun(clients: Clients) -> None:
    """Such as one that the volume has, which is read as a whole and does not look at the event."""
    small, *large = (
        PlannedFile(RepositoryFile(f"file-{number}", size, None, None), Expected(size), "volume")
        for number, size in enumerate((1, *[SMALL_FILE_BYTES + 1] * 3))
    )
    begun: list[PlannedFile] = []

    def fetch(planned: PlannedFile, _progress: OnProgress, cancel: threading.Event) -> Acquired:
        if planned is small:
            raise TransferRefused("refused", cure="-")
        begun.append(planned)
        assert cancel.wait(60)
        file = SnapshotFile(path=planned.file.path, size=planned.file.size, sha256=Sha256("0" * 64))
        return Acquired(file, "volume", 0)

    with pytest.raises(TransferRefused):
        fetch_files(PlainRunner(clients), [*large, small], fetch, Finished())
    assert len(begun) <= 1


def test_a_damaged_blob_of_two_files_is_quarantined_once_and_fetched_again(
    clients: Clients, hub: HubService, content: bytes
) -> None:
    pulled = pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    (sha256,) = {one.file.sha256 for one in pulled.acquired if one.file.path in SMALL[2:]}
    blob = clients.volume.blob_path(sha256)
    flip(blob, 100)
    pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == sha256


def test_an_error_of_the_large_file_ends_the_small_ones(clients: Clients, hub: HubService, content: bytes) -> None:
    preflight(clients, NAME, PlanRequest(256))  # keeps the header: the pull asks for the file when it fetches it
    slow_down(hub, each_s=600)
    hub.inject("status", f"{NAME}/{FILE}", times=None, status=404)
    hub.reset_stats()
    began = time.monotonic()
    with pytest.raises(TransferRefused, match=FILE):
        pull_with(PlainRunner(clients), AcquireRequest(Reference(MODEL)))
    assert time.monotonic() - began < 60
    assert any(path.endswith(SMALL[0]) for path in hub.stats().requests), "they were on their way"
    assert failures_of(clients) == {"TransferRefused": 1}, "those that it ended are none"


def test_an_interrupted_pull_does_not_wait_for_small_files_nor_count_them(
    clients: Clients, hub: HubService, content: bytes
) -> None:
    slow_down(hub, each_s=600)
    with Command("pull", NAME, "--json") as command:
        wait_for(lambda: list(clients.settings.volume.glob(".paddock/blobs/sha256/*/*")))  # only they are missing
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=20)
    assert command.returncode == 130
    assert json.loads(out)["error"] == "interrupted"
    assert failures_of(clients) == {}
