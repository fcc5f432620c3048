"""Downloads with hf_transfer and huggingface_hub: every byte of theirs is verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.local.hub import HubService
from paddock.errors import CorruptFile, TransferInterrupted, TransferRefused
from paddock.model.source import Address, Expected, HubLocation
from paddock.settings import Settings
from paddock.transfer.backend_process import on_disk_bytes
from paddock.transfer.backends import Backend, read_reports, select_backend
from paddock.transfer.fetch import Staged, fetch
from paddock.transfer.journal import Journal, JournalHeader
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress
from tests.transfer.remote import MIB, Remote, content, on_hub, sha256_of

DATA = content(25 * MIB + 12345)
BACKENDS: list[Backend] = ["hf_transfer", "xet"]
ROOT = Path(__file__).parents[2]


def source_of(hub: HubService) -> Remote:
    source = on_hub(hub, DATA)
    revision = source.url.split("/resolve/")[1].split("/")[0]
    source.hub_location = HubLocation(hub.address, "org/name", revision, "model.gguf", None)
    return source


def options(backend: Backend) -> Options:
    return Options(connections=4, segment_bytes=MIB, stall_s=5, backend=backend)


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def backend_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "paddock.transfer.backend_process" in child.cmdline()
    ]


def fetch_and_check(source: Remote, staging: Path, backend: Backend) -> Staged:
    staged = fetch(source, staging=staging, options=options(backend))
    assert staged is not None
    assert staged.path.read_bytes() == DATA
    assert staged.sha256 == sha256_of(DATA)
    assert len(staged.segments) == 26
    assert backend_processes() == []
    return staged


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_downloads_the_file_and_leaves_nothing_behind(
    hub: HubService, staging: Path, backend: Backend
) -> None:
    source = source_of(hub)
    hub.reset_stats()
    reports: list[Progress] = []
    staged = fetch(source, staging=staging, options=options(backend), on_progress=reports.append)
    assert staged is not None
    assert staged.path.read_bytes() == DATA
    assert staged.transferred_bytes == len(DATA)
    assert reports[-1].done_bytes == reports[-1].total_bytes == len(DATA)
    (requests,) = [count for request, count in hub.stats().requests.items() if "/resolve/" not in request]
    # hf_transfer asks for one byte first, and then for chunks of 1 MiB; huggingface_hub reads one body.
    assert requests == {"hf_transfer": 27, "xet": 1}[backend]
    staged.path.rename(staging.parent / "published")
    staged.discard()
    assert list(staging.iterdir()) == []


def test_blocks_preallocated_beyond_the_end_of_a_file_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "grows").write_bytes(bytes(1000))
    subprocess.run(["fallocate", "--keep-size", "--length", "1MiB", str(tmp_path / "grows")], check=True)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", MIB)
    assert (tmp_path / "grows").stat().st_blocks * 512 >= MIB
    assert on_disk_bytes(tmp_path) == 1000


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flipped_bit_is_found_and_only_its_segment_is_replaced(
    hub: HubService, staging: Path, backend: Backend
) -> None:
    source = source_of(hub)
    hub.inject("flip", "org/name/model.gguf", offset=100, bit=3)
    assert fetch_and_check(source, staging, backend).transferred_bytes == len(DATA) + MIB
    assert hub.pending_faults() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_that_are_wrong_each_time_are_reported_as_corrupt(
    hub: HubService, staging: Path, backend: Backend
) -> None:
    source = source_of(hub)
    hub.inject("flip", "org/name/model.gguf", offset=100, bit=3, times=None)
    with pytest.raises(CorruptFile):
        fetch(source, staging=staging, options=options(backend))
    assert list(staging.iterdir()) == []


def test_one_connection_is_enough(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    staged = fetch(source, staging=staging, options=replace(options("hf_transfer"), connections=1))
    assert staged is not None
    assert staged.path.read_bytes() == DATA


def test_a_slow_connection_is_not_taken_for_a_stall(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    # Eight chunks, four at once, take 4 s each: what counts is the time without a completed chunk.
    hub.inject("slow", "org/name/model.gguf", bytes_per_s=MIB / 4, times=8)
    fetch_and_check(source, staging, "hf_transfer")


def test_a_refused_address_is_renewed(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    hub.inject("status", "org/name/model.gguf", status=403)
    fetch_and_check(source, staging, "hf_transfer")
    assert source.renewals == 2


def test_a_file_without_a_digest_is_fetched_by_paddocks_own_backend(hub: HubService) -> None:
    source = Remote("http://127.0.0.1:9/never-asked", Expected(len(DATA)), hub_location=source_of(hub).hub_location)
    assert [select_backend(backend, source, limited=False) for backend in BACKENDS] == ["paddock", "paddock"]


def test_a_cancelled_transfer_stops_waiting_for_the_address(staging: Path) -> None:
    cancel, ended = threading.Event(), threading.Event()

    class Slow(Remote):
        def address(self, *, renew: bool = False) -> Address:
            cancel.set()
            ended.wait()
            raise AssertionError("the wait was not cancelled")

    source = Slow("http://127.0.0.1:9/never-asked", Expected(len(DATA), sha256_of(DATA)))
    try:
        with pytest.raises(TransferInterrupted, match="cancelled"):
            fetch(source, staging=staging, options=options("hf_transfer"), cancel=cancel)
    finally:
        ended.set()


def test_files_of_a_killed_huggingface_hub_are_removed_first(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    assert source.expected.key is not None
    left = staging / source.expected.key / "dead" / "huggingface" / "model.gguf.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(DATA)
    header = JournalHeader(key=source.expected.key, size=len(DATA), segment_bytes=MIB, boot=boot())
    journal = Journal(left.parents[1] / "journal", create=True)
    journal.start(header, {})
    journal.close()
    staged = fetch(source, staging=staging, options=options("paddock"))
    assert staged is not None
    assert sorted(path.name for path in staged.path.parent.iterdir()) == ["data", "journal"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_refusal_is_reported_without_a_url(hub: HubService, staging: Path, backend: Backend) -> None:
    source = source_of(hub)
    hub.inject("status", "org/name/model.gguf", status=404, times=None)
    with pytest.raises((TransferRefused, TransferInterrupted), match="could not download org/name") as caught:
        fetch(source, staging=staging, options=options(backend))
    assert "://" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"came": "x"}', b'{"came": Infinity}', b'{"error": 1}', b"\xff", b"[" * 20_000]
)
def test_a_process_that_was_taken_over_fails_its_download_alone(line: bytes) -> None:
    source = Remote("http://127.0.0.1:1/file", Expected(10, None))
    output, end = os.pipe()
    os.write(end, b'{"came": 5}\n' + line + b"\n")
    os.close(end)
    with (
        os.fdopen(output, "rb") as reports,
        pytest.raises(TransferRefused, match="what its process wrote is no report"),
    ):
        read_reports(reports, source, "xet", stall_s=5, on_received=lambda _: None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stalled_download_is_ended(hub: HubService, staging: Path, backend: Backend) -> None:
    source = source_of(hub)
    hub.inject("stall", "org/name/model.gguf", times=None, after_bytes=50_000)
    with pytest.raises(TransferInterrupted):
        fetch(source, staging=staging, options=Options(connections=4, segment_bytes=MIB, stall_s=2, backend=backend))
    assert backend_processes() == []


@pytest.mark.timeout(60)  # the file would take for ever
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cancelled_transfer_ends_its_process_at_once(hub: HubService, staging: Path, backend: Backend) -> None:
    source = source_of(hub)
    hub.inject("slow", "org/name/model.gguf", times=None, bytes_per_s=1000)
    cancel = threading.Event()

    def stop(progress: Progress) -> None:
        if backend_processes():
            cancel.set()

    with pytest.raises(TransferInterrupted, match="cancelled"):
        fetch(source, staging=staging, options=options(backend), on_progress=stop, cancel=cancel)
    assert backend_processes() == []


def test_the_process_of_a_backend_ends_when_its_parent_is_killed(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    hub.inject("slow", "org/name/model.gguf", times=None, bytes_per_s=1e6)
    script = (
        "import sys; from pathlib import Path; from paddock.transfer.fetch import fetch;"
        "from tests.transfer.test_backends import options; from tests.transfer.remote import Remote, Sha256, Expected;"
        "fetch(Remote(sys.argv[1], Expected(int(sys.argv[2]), Sha256(sys.argv[3]))), staging=Path(sys.argv[4]),"
        " options=options('hf_transfer'))"
    )
    command = [sys.executable, "-c", script, source.url, str(len(DATA)), sha256_of(DATA), str(staging)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            hub.wait_until(lambda stats: stats.total_bytes_sent > MIB)
            (process_of_backend,) = backend_processes()
        finally:
            os.kill(process.pid, signal.SIGKILL)
    process_of_backend.wait(5)
    hub.clear_faults()
    # It recorded no checkpoint, so that none of its bytes is used.
    staged = fetch_and_check(source, staging, "paddock")
    assert staged.resumed_bytes == 0


def test_a_transfer_of_paddocks_own_backend_is_resumed_by_it(hub: HubService, staging: Path) -> None:
    source = source_of(hub)
    hub.inject("reset", "org/name/model.gguf", times=None, after_bytes=4 * MIB)

    def stop(progress: Progress) -> None:
        if progress.done_bytes > 2 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(source, staging=staging, options=options("paddock"), on_progress=stop)
    hub.clear_faults()
    assert fetch_and_check(source, staging, "hf_transfer").resumed_bytes >= 2 * MIB


def test_paddocks_own_backend_is_selected_for_what_another_cannot_do(
    hub: HubService, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(hub)
    assert select_backend("hf_transfer", source, limited=False) == "hf_transfer"
    assert select_backend("xet", source, limited=False) == "xet"
    assert select_backend("xet", Remote(source.url, source.expected), limited=False) == "paddock"
    assert select_backend("hf_transfer", on_hub(hub, content(MIB)), limited=False) == "paddock"
    assert not caplog.records
    assert select_backend("hf_transfer", source, limited=True) == "paddock"
    assert "does not support a bandwidth limit" in caplog.text


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        (Settings(), "paddock"),
        (Settings(hub_transfer=True), "hf_transfer"),
        (Settings(hub_transfer=True, transfer="paddock"), "paddock"),
        (Settings(transfer="xet"), "xet"),
    ],
    ids=["unset", "by the ecosystem's variable", "PADDOCK_TRANSFER goes first", "xet"],
)
def test_the_backend_is_a_setting(settings: Settings, backend: str) -> None:
    assert Options.of(settings).backend == backend
