"""Each fault of a network, a server or a disk ends in the right bytes, or in an error that describes it."""

from __future__ import annotations

import errno
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import (
    CorruptFile,
    HubUnavailable,
    ModelGated,
    NoPermission,
    NotEnoughDisk,
    PaddockError,
    TransferInterrupted,
    TransferRefused,
)
from paddock.model.source import Expected
from paddock.transfer.client import RangeClient
from paddock.transfer.fetch import Staged, fetch
from paddock.transfer.meter import Meter
from paddock.transfer.options import Options
from paddock.transfer.preallocation import disk_error
from paddock.transfer.progress import Progress
from paddock.transfer.response import RetryableResponseError
from paddock.transfer.retry_budget import RetryBudget
from paddock.transfer.workers import TransferContext, WorkerPool
from tests.support.segments import segments_of
from tests.transfer.remote import MIB, SMALL, Remote, content, on_hub, sha256_of

DATA = content(3 * MIB + 12345)
FILE = "org/name/model.gguf"


def fetch_and_check(source: Remote, staging: Path, options: Options = SMALL) -> Staged:
    staged = fetch(source, staging=staging, options=options)
    assert staged is not None
    assert staged.path.read_bytes() == DATA
    assert staged.sha256 == sha256_of(DATA)
    return staged


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        pytest.param("status", {"status": 500}, id="a server's error"),
        pytest.param("status", {"status": 408}, id="a request that took too long"),
        pytest.param("status", {"status": 304}, id="a status for another kind of request"),
        pytest.param("html", {}, id="a page of HTML with 200"),
        pytest.param("reset", {"after_bytes": 100_000}, id="a reset"),
        pytest.param("short", {"after_bytes": 100_000}, id="an early end"),
        pytest.param("shift", {"offset": 7}, id="another range than requested"),
        pytest.param("shorten", {"after_bytes": 50_000}, id="a tiny part of a range"),
        pytest.param("endless", {}, id="a body without an end"),
        pytest.param("unsized", {}, id="no length"),
        pytest.param("gzip", {}, id="gzip that was not requested"),
        pytest.param("etag", {}, id="another ETag in mid-file"),
    ],
)
def test_a_temporary_fault_is_retried(hub: HubService, staging: Path, kind: str, numbers: dict[str, int]) -> None:
    source = on_hub(hub, DATA)
    hub.inject(kind, FILE, times=2, **numbers)
    # The ETag of the first response is what the others are compared with, so the fault begins after it.
    if kind == "etag":
        hub.clear_faults()
        hub.inject("slow", FILE, bytes_per_s=1e9)
        hub.inject(kind, FILE, times=2)
    fetch_and_check(source, staging, Options(connections=1, segment_bytes=MIB, stall_s=2))
    assert hub.pending_faults() == []


def test_the_rest_of_a_range_is_requested_if_a_server_sends_less(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("shorten", FILE, after_bytes=100_000, times=None)
    staged = fetch_and_check(source, staging, Options(connections=3, segment_bytes=MIB))
    assert staged.transferred_bytes == len(DATA)


def test_a_permanent_fault_ends_after_a_few_tries_with_a_message(hub: HubService, staging: Path) -> None:
    options = Options(connections=1, segment_bytes=MIB)
    messages = {
        "status": "the response has status 503",
        "html": f"a whole body of 100 bytes, expected {len(DATA)}",
        "reset": "the connection broke",
        "short": "the response ended 1048576 bytes early",
        "shift": f"the response holds 'bytes 7-1048582/{len(DATA)}', expected 'bytes 0-1048575/{len(DATA)}'",
        "endless": "longer than the file",
        "gzip": "encoded with 'gzip'",
        "nobody": "nothing listens there",
    }

    def attempt(kind: str) -> TransferInterrupted:
        # Each with its own bytes and name, in parallel: most of the time is spent in the pauses between the tries.
        name = f"{kind}.gguf"
        source = on_hub(hub, DATA[: -len(kind)] + kind.encode(), name=name)
        if kind == "nobody":
            source.url = "http://127.0.0.1:9/nobody"
        else:
            hub.inject(kind, f"org/name/{name}", times=None, offset=7)
        with pytest.raises(TransferInterrupted) as caught:
            fetch(source, staging=staging / kind, options=options)
        assert source.label in str(caught.value)
        assert "http" not in str(caught.value)
        return caught.value

    with ThreadPoolExecutor(len(messages)) as executor:
        for kind, error in zip(messages, executor.map(attempt, messages), strict=True):
            assert messages[kind] in error.message
            assert "without progress" in error.message
            assert error.wrong_answers == (kind in {"html", "shift", "endless", "gzip"})
    # Of the endless body all bytes but the last were received.
    assert {path.relative_to(staging).parts[0] for path in staging.rglob("*") if path.is_file()} == {"endless"}


def test_a_stalled_request_is_dropped_and_retried(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("stall", FILE, times=2, after_bytes=50_000)
    staged = fetch_and_check(source, staging, Options(connections=2, segment_bytes=MIB, stall_s=0.3))
    assert staged.transferred_bytes == len(DATA)


def test_a_very_slow_response_counts_as_a_stall(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("slow", FILE, times=1, bytes_per_s=50)
    assert fetch_and_check(source, staging, Options(connections=2, segment_bytes=MIB, stall_s=0.5)).seconds < 5


def test_a_busy_server_gets_the_pause_that_it_asked_for(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("status", FILE, status=429, headers={"Retry-After": "1"}, times=3)
    assert fetch_and_check(source, staging).seconds >= 1


def test_a_retry_after_that_is_too_long_is_passed_to_the_caller(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("status", FILE, status=503, headers={"Retry-After": "3600"}, times=None)
    with pytest.raises(TransferInterrupted, match="status 503") as caught:
        fetch(source, staging=staging, options=SMALL)
    assert caught.value.retry_after_s == 3600


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_a_refusal_is_final_after_one_renewed_address(hub: HubService, staging: Path, status: int) -> None:
    source = on_hub(hub, DATA)
    hub.inject("status", FILE, status=status, times=None)
    with pytest.raises(TransferRefused) as caught:
        fetch(source, staging=staging, options=Options(connections=1, segment_bytes=MIB))
    assert source.label in str(caught.value)
    assert source.renewals == 1


def test_an_expired_address_is_renewed_and_received_bytes_are_kept(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("slow", FILE, bytes_per_s=1e9, times=2)
    hub.inject("expire", FILE)
    staged = fetch_and_check(source, staging, Options(connections=1, segment_bytes=MIB))
    assert source.renewals == 1
    assert staged.transferred_bytes == len(DATA)


def test_a_transient_error_of_the_source_is_retried(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    source.errors = [HubUnavailable("the Hub does not answer"), HubUnavailable("the Hub does not answer")]
    fetch_and_check(source, staging)


def test_a_permanent_error_of_the_source_is_raised_at_once(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    source.errors = [ModelGated("org/name is gated"), ModelGated("asked a second time")]
    with pytest.raises(ModelGated, match="org/name is gated"):
        fetch(source, staging=staging, options=replace(SMALL, connections=1))
    assert list(staging.iterdir()) == []


def test_a_refused_connection_means_that_the_server_is_busy() -> None:
    source = Remote("http://127.0.0.1:9/nobody", Expected(5, sha256_of(b"12345")))
    client = RangeClient(source, connections=1, stall_s=1)
    with pytest.raises(RetryableResponseError, match="nothing listens there") as caught:
        client.open(0, 5)
    client.close()
    assert caught.value.busy


def test_a_response_in_another_protocol_is_a_broken_connection(staging: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"220 mail.example ESMTP\r\n" * 3)

        thread = threading.Thread(target=greet)
        thread.start()
        port: int = server.getsockname()[1]
        with pytest.raises(TransferInterrupted, match="the connection broke"):
            fetch(Remote(f"http://127.0.0.1:{port}/x", Expected(5, sha256_of(b"12345"))), staging=staging)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("resumes", [False, True], ids=["from the start", "in mid-file"])
def test_a_server_without_ranges_sends_the_whole_body_once(hub: HubService, staging: Path, resumes: bool) -> None:
    source = on_hub(hub, DATA)
    if resumes:
        hub.inject("slow", FILE, bytes_per_s=1e9, times=5)
    hub.inject("full", FILE, times=None)
    staged = fetch_and_check(source, staging, Options(connections=3, segment_bytes=MIB))
    # At most one response for each connection is dropped, and the bytes of the five ranges before are skipped.
    spans = 3 + (5 if resumes else 0)
    assert staged.transferred_bytes <= len(DATA) + spans * MIB // 3
    assert staged.segments == segments_of(DATA, MIB)


def test_a_span_acquired_before_ranges_turned_out_unsupported_is_still_a_range_request(
    hub: HubService, tmp_path: Path
) -> None:
    source = on_hub(hub, DATA)
    hub.inject("full", FILE, times=None)
    path, meter = tmp_path / "data", Meter()
    context = TransferContext(
        source=source,
        connections=2,
        segment_bytes=4 * MIB,
        limit_rate_bytes_per_s=None,
        stall_s=1.0,
        meter=meter,
        retry_budget=RetryBudget(source.label, meter, cure=""),
        is_owned=lambda: True,
    )
    pool = WorkerPool(context, path, 0, len(DATA), written_to=0)
    with path.open("wb") as file:
        taken = pool.scheduler.acquire()
        assert taken is not None
        pool.scheduler.use_whole_body()
        pool._attempt(taken, file.fileno(), memoryview(bytearray(1)))
    assert meter.transferred_bytes == 0
    with pool as scheduler:
        reached = 0
        while reached < len(DATA):
            reached = scheduler.frontier(reached, timeout_s=1.0)
    assert path.read_bytes() == DATA
    assert meter.transferred_bytes == len(DATA)


def test_a_whole_body_that_breaks_off_is_resumed(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("full", FILE)
    hub.inject("reset", FILE, after_bytes=2 * MIB)
    fetch_and_check(source, staging, Options(connections=1, segment_bytes=MIB))


def test_a_whole_body_that_always_breaks_off_at_the_same_place_ends(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("full", FILE)
    hub.inject("reset", FILE, after_bytes=2 * MIB, times=None)
    with pytest.raises(TransferInterrupted, match="the connection broke"):
        fetch(source, staging=staging, options=Options(connections=1, segment_bytes=MIB))


def test_a_flipped_bit_is_found_and_costs_one_segment(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("flip", FILE, offset=100, bit=3)
    staged = fetch_and_check(source, staging)
    assert staged.transferred_bytes == len(DATA) + MIB
    assert staged.segments == segments_of(DATA, MIB)


def test_a_bad_segment_in_the_middle_is_searched_from_the_start(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("flip", FILE, offset=MIB + 100, bit=3)
    # The first is fetched again and is the same; the second is replaced; the others are left alone.
    assert fetch_and_check(source, staging).transferred_bytes == len(DATA) + 2 * MIB


def test_bad_bytes_in_two_segments_are_replaced_in_one_round(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("flip", FILE, offset=100, bit=3)
    hub.inject("flip", FILE, offset=2 * MIB + 5, bit=0)
    assert fetch_and_check(source, staging).transferred_bytes == 2 * len(DATA)


def test_bytes_that_are_wrong_each_time_are_reported_as_corrupt_and_removed(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("flip", FILE, offset=100, bit=3, times=None)
    with pytest.raises(CorruptFile, match=f"its sha256 is [0-9a-f]{{64}}, expected {sha256_of(DATA)}"):
        fetch(source, staging=staging, options=SMALL)
    assert list(staging.iterdir()) == []
    # The source sends the same bytes each time, so there is no second round.
    assert hub.stats().total_bytes_sent == 2 * len(DATA)


def test_a_loop_of_redirects_ends(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    hub.inject("redirect", "*", where="hub", location=source.url, times=None)
    with pytest.raises(TransferRefused, match="more than 5 times"):
        fetch(source, staging=staging, options=SMALL)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_not_followed(hub: HubService, staging: Path, location: str) -> None:
    source = on_hub(hub, DATA)
    hub.inject("redirect", "*", where="hub", location=location, times=None)
    with pytest.raises(TransferRefused, match="redirected from http"):
        fetch(source, staging=staging, options=SMALL)


def test_a_token_stays_with_its_own_host(hub: HubService, staging: Path) -> None:
    hub.hub.grant("hf_secret", "org/name")
    hub.repository("org/name", private=True)
    source = on_hub(hub, DATA)
    source.headers = {"Authorization": "Bearer hf_secret"}
    fetch_and_check(source, staging)
    assert hub.stats().leaked_tokens == 0
    assert "hf_secret" not in repr(source.address())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of every file of this process, as a full disk or a quota does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_quota_is_found_before_the_first_byte(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    with largest_file(MIB), pytest.raises(NotEnoughDisk, match=f"to its {len(DATA)} bytes"):
        fetch(source, staging=staging, options=SMALL)
    assert hub.stats().total_bytes_sent == 0
    assert list(staging.iterdir()) == []
    fetch_and_check(source, staging)


def test_a_disk_that_fills_while_writing_keeps_the_received_bytes(hub: HubService, staging: Path) -> None:
    source = on_hub(hub, DATA)
    options = Options(connections=2, segment_bytes=MIB, limit_rate_bytes_per_s=4 * MIB)
    with largest_file(len(DATA)):

        def fill(progress: Progress) -> None:
            # From here on every write after the second segment fails, although its space was reserved.
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        with pytest.raises(NotEnoughDisk, match="received bytes are kept"):
            fetch(source, staging=staging, options=options, on_progress=fill)
    assert fetch_and_check(source, staging).resumed_bytes >= MIB


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NotEnoughDisk),
        (errno.EDQUOT, NotEnoughDisk),
        (errno.EROFS, NoPermission),
        (errno.EACCES, NoPermission),
        (errno.EIO, TransferInterrupted),
    ],
)
def test_each_disk_error_is_mapped_and_names_the_path_and_the_bytes(number: int, kind: type[PaddockError]) -> None:
    error = disk_error(OSError(number, "an error of the disk"), Path("/volume/x"), 12345)
    assert type(error) is kind
    assert "/volume/x" in str(error)
    assert "12345 bytes" in str(error)


def test_a_staging_directory_that_is_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(b"")
    source = Remote("http://127.0.0.1:9/never-asked", Expected(5, sha256_of(b"12345")))
    with pytest.raises(PaddockError, match="partial"):
        fetch(source, staging=tmp_path / "partial", options=SMALL)
