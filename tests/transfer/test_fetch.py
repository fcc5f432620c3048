"""Fetching a whole file: the right bytes, the right digests, and no leftovers."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.local.hub import HubService
from paddock.errors import CorruptFile, NotEnoughDisk, TransferInterrupted, UnsafeName
from paddock.model.source import Expected
from paddock.settings import Settings
from paddock.transfer.connections import DirectResponse
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress
from tests.support.segments import segments_of
from tests.transfer.remote import KIB, MIB, SMALL, Remote, content, expected, git_sha1_of, on_hub, sha256_of


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("paddock-fetch")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.one_of(st.integers(0, 3), st.integers(0, 700 * KIB), st.sampled_from([64 * KIB, 128 * KIB, 256 * KIB + 1])),
    segment_bytes=st.integers(64 * KIB, 300 * KIB),
    connections=st.integers(1, 9),
    span_bytes=st.none() | st.integers(32 * KIB, 400 * KIB),
)
def test_every_size_is_fetched_with_the_digest_of_each_segment(
    hub: HubService, tmp_path: Path, size: int, segment_bytes: int, connections: int, span_bytes: int | None
) -> None:
    data = content(size, seed=size)
    options = Options(connections=connections, segment_bytes=segment_bytes, span_bytes=span_bytes)
    staged = fetch(on_hub(hub, data), staging=tmp_path / "partial", options=options)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert (staged.size, staged.sha256) == (size, sha256_of(data))
    assert staged.segments == segments_of(data, segment_bytes)
    assert (staged.transferred_bytes, staged.resumed_bytes) == (size, 0)
    staged.discard()
    assert list((tmp_path / "partial").iterdir()) == []


def test_bodies_are_received_into_memory_of_their_own(
    hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not through urllib3, which copies them: it would take over where its response has changed."""
    received = []
    receive_into = DirectResponse.receive_into

    def counted(response: DirectResponse, memory: memoryview) -> int:
        count = receive_into(response, memory)
        received.append(count)
        return count

    monkeypatch.setattr(DirectResponse, "receive_into", counted)
    data = content(3 * MIB)
    staged = fetch(on_hub(hub, data), staging=tmp_path, options=SMALL)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert sum(received) == len(data)


def test_ranges_are_fetched_in_parallel_and_each_byte_once(hub: HubService, tmp_path: Path) -> None:
    data = content(8 * MIB)
    staged = fetch(on_hub(hub, data), staging=tmp_path, options=SMALL)
    assert staged is not None
    assert staged.path.read_bytes() == data
    stats = hub.stats()
    assert stats.total_bytes_sent == len(data)
    requests = [count for request, count in stats.requests.items() if "/resolve/" not in request]
    assert len(requests) == 1
    assert 8 <= requests[0] <= 32, "of 256 KiB, and longer where this machine is slow"
    assert stats.total_requests == 1 + requests[0], "the redirect is followed once, not for each range"
    assert worker_threads() == []


def test_a_request_has_the_length_of_the_option(hub: HubService, tmp_path: Path) -> None:
    data = content(8 * MIB)
    staged = fetch(on_hub(hub, data), staging=tmp_path, options=replace(SMALL, span_bytes=MIB))
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert [count for request, count in hub.stats().requests.items() if "/resolve/" not in request] == [8]


def test_a_file_with_only_a_git_digest_is_verified_by_it_and_named_by_its_sha256(
    hub: HubService, tmp_path: Path
) -> None:
    data = content(300 * KIB)
    source = on_hub(hub, data, bytes_expected=Expected(len(data), git_sha1=git_sha1_of(data)))
    staged = fetch(source, staging=tmp_path, options=SMALL)
    assert staged is not None
    assert staged.sha256 == sha256_of(data)
    assert staged.path.parent.parent.name == f"git-{git_sha1_of(data)}"


def test_a_file_whose_git_digest_differs_is_corrupt(hub: HubService, tmp_path: Path) -> None:
    data = content(3000)
    source = on_hub(hub, data, bytes_expected=Expected(len(data), git_sha1="0" * 40))
    with pytest.raises(CorruptFile, match=f"git sha1 is {git_sha1_of(data)}, expected 0{{40}}"):
        fetch(source, staging=tmp_path, options=SMALL)


def test_a_file_without_a_digest_gets_its_real_one_and_is_never_resumed(hub: HubService, tmp_path: Path) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data, bytes_expected=Expected(len(data)))
    hub.inject("status", "org/name/*", status=404, times=None)
    with pytest.raises(Exception, match="gone"):
        fetch(source, staging=tmp_path, options=SMALL)
    hub.clear_faults()
    assert list(tmp_path.rglob("data")) == []
    staged = fetch(source, staging=tmp_path, options=SMALL)
    assert staged is not None
    assert staged.sha256 == sha256_of(data)


def test_an_empty_file_that_should_be_another_is_corrupt(tmp_path: Path) -> None:
    source = Remote("http://127.0.0.1:9/never-asked", Expected(0, sha256_of(b"x")))
    with pytest.raises(CorruptFile):
        fetch(source, staging=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_digest_that_is_a_path_is_refused(tmp_path: Path) -> None:
    source = Remote("http://127.0.0.1:9/never-asked", Expected(1, git_sha1="../../outside"))
    with pytest.raises(UnsafeName):
        fetch(source, staging=tmp_path / "partial")
    assert not (tmp_path / "partial").exists()


def test_progress_is_right_and_reported_at_most_four_times_a_second(hub: HubService, tmp_path: Path) -> None:
    reports: list[Progress] = []
    data = content(2 * MIB)
    source = on_hub(hub, data)
    options = Options(connections=2, segment_bytes=MIB, limit_rate_bytes_per_s=2 * MIB)
    staged = fetch(source, staging=tmp_path, options=options, on_progress=reports.append)
    assert staged is not None
    assert 2 <= len(reports) <= 4 * staged.seconds + 2
    for before, after in itertools.pairwise(reports):
        assert before.done_bytes <= after.done_bytes <= after.transferred_bytes
    last = reports[-1]
    assert (last.label, last.done_bytes, last.total_bytes) == (source.label, len(data), len(data))
    assert (last.transferred_bytes, last.resumed_bytes) == (len(data), 0)
    assert 0 < last.rate_bytes_per_s < 3 * MIB  # the bound, and a burst


def test_the_bandwidth_limit_holds_over_all_connections(hub: HubService, tmp_path: Path) -> None:
    data = content(2 * MIB)
    options = Options(connections=8, segment_bytes=MIB, limit_rate_bytes_per_s=2 * MIB)
    staged = fetch(on_hub(hub, data), staging=tmp_path, options=options)
    assert staged is not None
    assert staged.seconds > 0.85


@pytest.mark.timeout(60)  # a connection that is not aborted waits for ten minutes
@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_a_cancelled_or_interrupted_transfer_stops_at_once_and_keeps_the_received_bytes(
    hub: HubService, tmp_path: Path, how: str
) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    cancel = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.done_bytes > 2 * MIB:
            # From here on every connection stalls.
            hub.inject("stall", "org/name/*", times=None)
            hub.wait_until(lambda stats: stats.total_bytes_sent > 2 * MIB)
            if how == "interrupted":
                raise KeyboardInterrupt
            cancel.set()

    options = Options(connections=4, segment_bytes=MIB, limit_rate_bytes_per_s=8 * MIB, stall_s=600)
    with pytest.raises(TransferInterrupted if how == "cancelled" else KeyboardInterrupt):
        fetch(source, staging=tmp_path, options=options, on_progress=stop, cancel=cancel)
    assert worker_threads() == []
    hub.clear_faults()
    staged = fetch(source, staging=tmp_path, options=options)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert staged.resumed_bytes >= MIB
    assert staged.transferred_bytes == len(data) - staged.resumed_bytes


def test_a_disk_that_is_too_small_is_found_before_the_first_byte_and_leaves_nothing(tmp_path: Path) -> None:
    source = Remote("http://127.0.0.1:9/never-asked", Expected(1 << 60, sha256_of(b"")))
    with pytest.raises(NotEnoughDisk, match=r"needs 1152921504606846976 bytes more, and \d+ are free"):
        fetch(source, staging=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_published_the_bytes_ends_the_wait(hub: HubService, tmp_path: Path) -> None:
    source = on_hub(hub, content(300 * KIB))
    staged = fetch(source, staging=tmp_path, options=SMALL)
    assert staged is not None
    sent = hub.stats().total_bytes_sent
    answers = iter([False, False, True])
    assert fetch(source, staging=tmp_path, options=SMALL, is_published=lambda: next(answers)) is None
    assert hub.stats().total_bytes_sent == sent
    assert staged.path.exists()


def test_bytes_published_before_the_lock_was_taken_are_not_fetched(tmp_path: Path) -> None:
    source = Remote("http://127.0.0.1:9/never-asked", expected(b"data"))
    assert fetch(source, staging=tmp_path, is_published=lambda: True) is None
    assert list(tmp_path.iterdir()) == []


def test_a_staged_file_that_was_renamed_away_stays_when_the_rest_is_discarded(hub: HubService, tmp_path: Path) -> None:
    data = content(1000)
    staged = fetch(on_hub(hub, data), staging=tmp_path / "partial", options=SMALL)
    assert staged is not None
    staged.path.rename(tmp_path / "published")
    staged.discard()
    staged.discard()
    assert (tmp_path / "published").read_bytes() == data
    assert list((tmp_path / "partial").iterdir()) == []


def test_options_come_from_the_settings() -> None:
    assert Options.of(Settings(connections=3, segment_bytes=MIB, limit_rate_bytes_per_s=5000, stall_s=2)) == Options(
        3, MIB, 5000, 2
    )


def test_on_block_gets_every_byte_once_and_in_order(hub: HubService, tmp_path: Path) -> None:
    data = content(3 * MIB + 7)
    received = bytearray()

    def on_block(offset: int, block: memoryview) -> None:
        assert offset == len(received)
        received.extend(block)

    assert fetch(on_hub(hub, data), staging=tmp_path, options=SMALL, on_block=on_block) is not None
    assert received == data


def test_on_block_gets_replaced_bytes_again(hub: HubService, tmp_path: Path) -> None:
    data = content(3 * MIB + 7)
    source = on_hub(hub, data)
    hub.inject("flip", "org/name/model.gguf", offset=MIB + 100, bit=3)
    received = bytearray()
    rewinds: list[int] = []

    def on_block(offset: int, block: memoryview) -> None:
        if offset != len(received):
            rewinds.append(offset)
            del received[offset:]
        received.extend(block)

    assert fetch(source, staging=tmp_path, options=SMALL, on_block=on_block) is not None
    assert received == data
    assert rewinds == [0]
