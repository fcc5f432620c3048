"""A transfer resumes what a dead process left, and verifies all of it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import NotEnoughDisk
from paddock.transfer.fetch import fetch
from paddock.transfer.journal import Journal, Piece
from paddock.transfer.options import Options
from tests.support.segments import segment_of
from tests.support.waiting import wait_for
from tests.transfer.remote import KIB, MIB, SMALL, content, on_hub, sha256_of
from tests.transfer.resume import LOST_BYTES, SPAN, create_partial, fetching_process, result_of, resume_and_check


@pytest.mark.parametrize(("count", "size_mib"), [(3, 8), pytest.param(10, 24, marks=pytest.mark.torture)])
def test_kills_at_random_moments_cost_a_segment_each_and_no_byte_is_wrong(
    hub: HubService, tmp_path: Path, seed: int, count: int, size_mib: int
) -> None:
    data = content(size_mib * MIB)
    source = on_hub(hub, data)
    chance = random.Random(seed)
    kills = 0
    for _ in range(count):
        target = hub.stats().total_bytes_sent + chance.randrange(4 * MIB)
        with fetching_process(source, tmp_path, rate=size_mib * MIB) as process:
            hub.wait_until(lambda stats, target=target: stats.total_bytes_sent >= min(target, len(data) - 1))  # type: ignore[misc]  # mypy knows no lambda with a default
            kills += process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
    with fetching_process(source, tmp_path) as process:
        last = result_of(process)
    assert (tmp_path / "published").read_bytes() == data
    assert kills >= count // 2
    assert hub.stats().total_bytes_sent <= len(data) + kills * LOST_BYTES
    assert last is None or last["transferred"] + last["resumed"] == len(data)


def test_only_missing_bytes_are_fetched(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    create_partial(source, staging, data, written=3 * MIB)
    staged = resume_and_check(source, staging, data)
    assert staged.resumed_bytes == 3 * MIB
    assert staged.transferred_bytes == len(data) - 3 * MIB == hub.stats().total_bytes_sent


def test_a_staged_file_that_was_never_published_is_used_entirely(hub: HubService, staging: Path) -> None:
    data = content(3 * MIB + 1)
    source = on_hub(hub, data)
    staged = fetch(source, staging=staging, options=SMALL)
    assert staged is not None
    segments = staged.segments
    del staged  # as the kernel does when the process dies
    again = resume_and_check(source, staging, data)
    assert (again.transferred_bytes, again.resumed_bytes) == (0, len(data))
    assert again.segments == segments


def test_a_torn_last_line_of_the_journal_is_ignored(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    journal = create_partial(source, staging, data, written=3 * MIB) / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
    staged = resume_and_check(source, staging, data)
    assert staged.resumed_bytes == json.loads(lines[-2])["end"]


@pytest.mark.parametrize(
    "text", [b"", b"\0" * 4096, b"[" * 100_000 + b"\n", b'{"schema": 2}\n{"end": 5}\n', b'{"end": -1, "digest": 5}\n']
)
def test_an_invalid_journal_starts_the_file_over(hub: HubService, staging: Path, text: bytes) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    (create_partial(source, staging, data, written=2 * MIB) / "journal").write_bytes(text)
    assert resume_and_check(source, staging, data).resumed_bytes == 0


def test_a_journal_of_the_first_version_whose_digests_are_sha256_starts_the_file_over(
    hub: HubService, staging: Path
) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    journal = create_partial(source, staging, data, written=2 * MIB) / "journal"
    header, *_ = map(json.loads, journal.read_text().splitlines())
    first = {"end": MIB, "sha256": sha256_of(data[:MIB])}
    journal.write_text(json.dumps({**header, "schema": 1}) + "\n" + json.dumps(first) + "\n")
    assert resume_and_check(source, staging, data).resumed_bytes == 0


def test_a_journal_with_another_segment_length_starts_the_file_over(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    create_partial(source, staging, data, written=2 * MIB)
    staged = resume_and_check(source, staging, data, Options(connections=4, segment_bytes=512 * KIB))
    assert (staged.resumed_bytes, len(staged.segments)) == (0, 8)


def write_pieces(directory: Path, data: bytes, *spans: tuple[int, int]) -> None:
    """Write bytes into the partial file, as workers of the dead process did behind a gap, and record them as pieces."""
    journal = Journal(directory / "journal")
    with (directory / "data").open("r+b") as file:
        for start, end in spans:
            file.seek(start)
            file.write(data[start:end])
            journal.add_piece(Piece(start, end, segment_of(data[start:end])))
    journal.close()


def test_bytes_behind_a_gap_are_used_and_only_the_gap_is_fetched(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=MIB)
    # Out of order, as workers write them; one reaches over the last checkpoint, and two overlap.
    spans = (3 * MIB, 3 * MIB + 7), (MIB - 5, MIB + 5), (2 * MIB, 2 * MIB + 900), (2 * MIB + 800, 2 * MIB + 1000)
    write_pieces(directory, data, *spans)
    assert resume_and_check(source, staging, data).resumed_bytes == MIB + 5 + 1000 + 7
    assert hub.stats().total_bytes_sent == 3 * MIB - 1012


def test_bytes_behind_a_gap_are_used_without_any_checkpoint(hub: HubService, staging: Path) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    write_pieces(create_partial(source, staging, data, written=0), data, (MIB, 2 * MIB))
    assert resume_and_check(source, staging, data).resumed_bytes == MIB


def test_gaps_are_recorded_while_the_reader_is_busy_with_bytes_that_were_here(hub: HubService, staging: Path) -> None:
    data = content(16 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=MIB)
    # As of a model of which most tensors are copied from the one before: gaps far beyond a window.
    here = [(start, start + MIB) for start in range(3 * MIB, 16 * MIB, 3 * MIB)]
    write_pieces(directory, data, *here)
    missing = len(data) - MIB - sum(end - start for start, end in here)
    is_read, received = threading.Event(), threading.Event()

    def on_block(offset: int, block: memoryview) -> None:
        is_read.set()
        assert received.wait(60)

    def recorded() -> int:
        [journal] = staging.glob("*/*/journal")  # the fetch has a directory of its own
        spans = [line["piece"] for line in map(json.loads, journal.read_text().splitlines()) if "piece" in line]
        return sum(end - start for start, end in spans if [start, end] not in map(list, here))

    with ThreadPoolExecutor() as pool:
        running = pool.submit(fetch, source, staging=staging, options=SMALL, on_block=on_block)
        try:
            assert is_read.wait(60)
            wait_for(lambda: recorded() == missing)
        finally:
            received.set()
        staged = running.result(60)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert hub.stats().total_bytes_sent == missing


def test_a_flipped_byte_behind_a_gap_costs_its_piece(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=MIB)
    write_pieces(directory, data, (2 * MIB, 2 * MIB + 1000), (3 * MIB, 3 * MIB + 1000))
    with (directory / "data").open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(bytes([data[2 * MIB + 5] ^ 4]))
    assert resume_and_check(source, staging, data).resumed_bytes == MIB + 1000


def test_a_piece_recorded_with_wrong_bytes_is_found_by_the_digest_of_the_file(hub: HubService, staging: Path) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    wrong = data[:MIB] + bytes(1000) + data[MIB + 1000 :]
    write_pieces(create_partial(source, staging, data, written=0), wrong, (MIB, MIB + 1000))
    resume_and_check(source, staging, data)


@pytest.mark.parametrize("line", ['{"piece": [5]}', '{"piece": [-5, 5]}', '{"piece": [5, 4]}', '{"piece": [0, 1e9]}'])
def test_a_piece_with_invalid_offsets_is_skipped(hub: HubService, staging: Path, line: str) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    journal = create_partial(source, staging, data, written=MIB) / "journal"
    fields = {**json.loads(line), "digest": "blake3:" + "0" * 64}
    journal.write_text(journal.read_text() + json.dumps(fields) + "\n")
    assert resume_and_check(source, staging, data).resumed_bytes == MIB


def test_a_wrong_checkpoint_costs_the_bytes_that_it_covers(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    journal = create_partial(source, staging, data, written=3 * MIB) / "journal"
    lines = journal.read_text().splitlines(keepends=True)
    checkpoint = json.loads(lines[3])
    lines[3] = json.dumps({**checkpoint, "digest": "blake3:" + "0" * 64}) + "\n"
    lines += [json.dumps({"end": len(data), "digest": "blake3:" + "1" * 64}) + "\n"]
    journal.write_text("".join(lines))
    staged = resume_and_check(source, staging, data)
    # The third checkpoint is wrong: the first segment is fetched again from the second one on, and all of the last.
    assert staged.resumed_bytes == 3 * MIB - 2 * SPAN
    assert staged.transferred_bytes == len(data) - staged.resumed_bytes


def test_a_flipped_byte_on_disk_costs_one_segment(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=4 * MIB)
    with (directory / "data").open("r+b") as file:
        file.seek(1 * MIB + 5)
        byte = file.read(1)
        file.seek(1 * MIB + 5)
        file.write(bytes([byte[0] ^ 4]))
    staged = resume_and_check(source, staging, data)
    assert staged.resumed_bytes == 3 * MIB


@pytest.mark.timeout(60)
def test_a_server_without_ranges_sends_wrong_bytes_again(hub: HubService, staging: Path) -> None:
    data = content(12 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=4 * MIB)
    with (directory / "data").open("r+b") as file:
        file.seek(3 * MIB + 5)
        file.write(b"rotten")
    # The rest comes as one body, far ahead of the reader when it finds that a checkpoint does not match.
    hub.inject("full", "org/name/model.gguf", times=None)
    staged = resume_and_check(source, staging, data)
    assert 2 * MIB < staged.resumed_bytes < 4 * MIB


def test_nothing_is_resumed_after_a_failed_fsync(
    hub: HubService, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(3 * MIB)
    source = on_hub(hub, data)

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)  # a disk that fills only now would need a file system of its own
        with pytest.raises(NotEnoughDisk, match="then start again"):
            fetch(source, staging=staging, options=SMALL)
    assert list(staging.iterdir()) == []
    assert resume_and_check(source, staging, data).resumed_bytes == 0


def test_a_truncated_data_file_is_completed(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=4 * MIB)
    os.truncate(directory / "data", 2 * MIB)
    assert resume_and_check(source, staging, data).resumed_bytes == 2 * MIB
