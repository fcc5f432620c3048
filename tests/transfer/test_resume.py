"""A transfer resumes what a dead process left, and verifies all of it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import NotEnoughDisk, TransferInterrupted
from paddock.model.source import Expected
from paddock.transfer.fetch import Staged, fetch, remove_leftovers
from paddock.transfer.journal import Journal, JournalHeader, Piece
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress
from paddock.transfer.staging import acquire, create
from tests.support.segments import segment_of
from tests.transfer.remote import KIB, MIB, SMALL, Remote, content, on_hub, sha256_of

ROOT = Path(__file__).parents[2]
SPAN = 256 * KIB
# What a kill can lose: the window, the span that started in it last, and the bytes after the last checkpoint.
LOST_BYTES = MIB + 2 * SPAN


@contextmanager
def child(source: Remote, directory: Path, *, rate: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.transfer.child", source.url, str(source.expected.size)]
    command += [str(source.expected.sha256), str(directory), str(rate)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def done(process: subprocess.Popen[str]) -> dict[str, int] | None:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    answer: dict[str, int] | None = json.loads(out)
    return answer


def partial(source: Remote, staging: Path, data: bytes, *, written: int, token: str = "dead") -> Path:
    """Create the staging directory of a fetch that was killed after `written` bytes; return its path."""
    assert source.expected.key is not None
    directory = staging / source.expected.key / token
    directory.mkdir(parents=True)
    (directory / "data").write_bytes(data[:written] + bytes(len(data) - written))
    journal = Journal(directory / "journal", create=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    journal.start(JournalHeader(key=source.expected.key, size=len(data), segment_bytes=MIB, boot=boot), {})
    for end in range(SPAN, written + 1, SPAN):
        journal.add_checkpoint(end, segment_of(data[(end - 1) // MIB * MIB : end]))
    journal.close()
    return directory


def resume_and_check(source: Remote, staging: Path, data: bytes, options: Options = SMALL) -> Staged:
    staged = fetch(source, staging=staging, options=options)
    assert staged is not None
    assert staged.path.read_bytes() == data
    assert len(list(staging.glob("*/*"))) == 1
    return staged


def test_ten_kills_at_random_moments_cost_a_segment_each_and_no_byte_is_wrong(
    hub: HubService, tmp_path: Path, seed: int
) -> None:
    data = content(24 * MIB)
    source = on_hub(hub, data)
    chance = random.Random(seed)
    kills = 0
    for _ in range(10):
        target = hub.stats().total_bytes_sent + chance.randrange(4 * MIB)
        with child(source, tmp_path, rate=24 * MIB) as process:
            hub.wait_until(lambda stats, target=target: stats.total_bytes_sent >= min(target, len(data) - 1))  # type: ignore[misc]  # mypy knows no lambda with a default
            kills += process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
    with child(source, tmp_path) as process:
        last = done(process)
    assert (tmp_path / "published").read_bytes() == data
    assert kills >= 5
    assert hub.stats().total_bytes_sent <= len(data) + kills * LOST_BYTES
    assert last is None or last["transferred"] + last["resumed"] == len(data)


def test_only_missing_bytes_are_fetched(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    partial(source, staging, data, written=3 * MIB)
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
    journal = partial(source, staging, data, written=3 * MIB) / "journal"
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
    (partial(source, staging, data, written=2 * MIB) / "journal").write_bytes(text)
    assert resume_and_check(source, staging, data).resumed_bytes == 0


def test_a_journal_of_the_first_version_whose_digests_are_sha256_starts_the_file_over(
    hub: HubService, staging: Path
) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    journal = partial(source, staging, data, written=2 * MIB) / "journal"
    header, *_ = map(json.loads, journal.read_text().splitlines())
    first = {"end": MIB, "sha256": sha256_of(data[:MIB])}
    journal.write_text(json.dumps({**header, "schema": 1}) + "\n" + json.dumps(first) + "\n")
    assert resume_and_check(source, staging, data).resumed_bytes == 0


def test_a_journal_with_another_segment_length_starts_the_file_over(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    partial(source, staging, data, written=2 * MIB)
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
    directory = partial(source, staging, data, written=MIB)
    # Out of order, as workers write them; one reaches over the last checkpoint, and two overlap.
    spans = (3 * MIB, 3 * MIB + 7), (MIB - 5, MIB + 5), (2 * MIB, 2 * MIB + 900), (2 * MIB + 800, 2 * MIB + 1000)
    write_pieces(directory, data, *spans)
    assert resume_and_check(source, staging, data).resumed_bytes == MIB + 5 + 1000 + 7
    assert hub.stats().total_bytes_sent == 3 * MIB - 1012


def test_bytes_behind_a_gap_are_used_without_any_checkpoint(hub: HubService, staging: Path) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    write_pieces(partial(source, staging, data, written=0), data, (MIB, 2 * MIB))
    assert resume_and_check(source, staging, data).resumed_bytes == MIB


def test_a_flipped_byte_behind_a_gap_costs_its_piece(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = partial(source, staging, data, written=MIB)
    write_pieces(directory, data, (2 * MIB, 2 * MIB + 1000), (3 * MIB, 3 * MIB + 1000))
    with (directory / "data").open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(bytes([data[2 * MIB + 5] ^ 4]))
    assert resume_and_check(source, staging, data).resumed_bytes == MIB + 1000


def test_a_piece_recorded_with_wrong_bytes_is_found_by_the_digest_of_the_file(hub: HubService, staging: Path) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    wrong = data[:MIB] + bytes(1000) + data[MIB + 1000 :]
    write_pieces(partial(source, staging, data, written=0), wrong, (MIB, MIB + 1000))
    resume_and_check(source, staging, data)


@pytest.mark.parametrize("line", ['{"piece": [5]}', '{"piece": [-5, 5]}', '{"piece": [5, 4]}', '{"piece": [0, 1e9]}'])
def test_a_piece_with_invalid_offsets_is_skipped(hub: HubService, staging: Path, line: str) -> None:
    data = content(2 * MIB)
    source = on_hub(hub, data)
    journal = partial(source, staging, data, written=MIB) / "journal"
    fields = {**json.loads(line), "digest": "blake3:" + "0" * 64}
    journal.write_text(journal.read_text() + json.dumps(fields) + "\n")
    assert resume_and_check(source, staging, data).resumed_bytes == MIB


def test_a_wrong_checkpoint_costs_the_bytes_that_it_covers(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    journal = partial(source, staging, data, written=3 * MIB) / "journal"
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
    directory = partial(source, staging, data, written=4 * MIB)
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
    directory = partial(source, staging, data, written=4 * MIB)
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
    directory = partial(source, staging, data, written=4 * MIB)
    os.truncate(directory / "data", 2 * MIB)
    assert resume_and_check(source, staging, data).resumed_bytes == 2 * MIB


def test_a_crash_during_adoption_does_not_block_others(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = partial(source, staging, data, written=2 * MIB)
    (directory / "journal.new").write_bytes(b"{")
    nothing = directory.with_name("without-a-journal")
    nothing.mkdir()
    os.utime(nothing, (time.time() - 61, time.time() - 61))
    assert resume_and_check(source, staging, data).resumed_bytes == 2 * MIB


def test_the_orphan_with_the_most_bytes_is_adopted_and_the_others_are_removed(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    for token, written in (("a", MIB), ("b", 3 * MIB), ("c", 2 * MIB)):
        partial(source, staging, data, written=written, token=token)
    assert resume_and_check(source, staging, data).resumed_bytes == 3 * MIB


def test_a_directory_of_another_machine_is_adopted_only_after_a_long_silence(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = partial(source, staging, data, written=2 * MIB)
    journal = directory / "journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(json.dumps({**json.loads(lines[0]), "boot": "another-kernel"}) + "\n" + "".join(lines[1:]))
    waited = iter([False, False, True])
    assert fetch(source, staging=staging, options=SMALL, is_published=lambda: next(waited)) is None
    for name in ("journal", "data"):
        os.utime(directory / name, (time.time() - 61, time.time() - 61))
    assert resume_and_check(source, staging, data).resumed_bytes == 2 * MIB


def test_a_living_process_that_writes_nothing_for_long_is_not_waited_for(hub: HubService, staging: Path) -> None:
    data = content(MIB)
    source = on_hub(hub, data)
    alive = fetch(source, staging=staging, options=SMALL)
    assert alive is not None
    for name in ("journal", "data"):
        os.utime(alive.path.with_name(name), (time.time() - 61, time.time() - 61))
    staged = fetch(source, staging=staging, options=SMALL)
    assert staged is not None
    assert staged.path != alive.path
    assert staged.transferred_bytes == len(data)


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_stay(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    alive = fetch(source, staging=staging, options=SMALL)
    assert alive is not None
    dead = partial(source, staging, data, written=2 * MIB)
    elsewhere = partial(source, staging, data, written=MIB, token="elsewhere")
    journal = elsewhere / "journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(json.dumps({**json.loads(lines[0]), "boot": "another-kernel"}) + "\n" + "".join(lines[1:]))
    remove_leftovers(source.expected, staging=staging, options=SMALL)
    assert (alive.path.exists(), dead.exists(), elsewhere.exists()) == (True, False, True)
    for name in ("journal", "data"):
        os.utime(elsewhere / name, (time.time() - 61, time.time() - 61))
    alive.discard()
    remove_leftovers(source.expected, staging=staging, options=SMALL)
    assert list(staging.iterdir()) == []


def test_a_process_that_lost_its_directory_stops_writing(hub: HubService, tmp_path: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    taken = tmp_path / "taken"

    def take_away(progress: Progress) -> None:
        if progress.done_bytes > MIB and not taken.exists():
            (directory,) = (tmp_path / "partial").glob("*/*")
            directory.rename(taken)

    options = Options(connections=4, segment_bytes=MIB, limit_rate_bytes_per_s=8 * MIB)
    with pytest.raises(TransferInterrupted, match="another process took over"):
        fetch(source, staging=tmp_path / "partial", options=options, on_progress=take_away)
    assert (taken / "data").exists()


def test_one_of_several_processes_that_start_together_fetches(hub: HubService, tmp_path: Path) -> None:
    data = content(8 * MIB)
    source = on_hub(hub, data)
    with (
        child(source, tmp_path, rate=8 * MIB) as first,
        child(source, tmp_path, rate=8 * MIB) as second,
        child(source, tmp_path, rate=8 * MIB) as third,
    ):
        answers = [done(process) for process in (first, second, third)]
    assert (tmp_path / "published").read_bytes() == data
    assert [answer for answer in answers if answer] == [{"transferred": len(data), "resumed": 0}]
    assert hub.stats().total_bytes_sent == len(data)
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_directory_that_its_last_owner_removes_meanwhile_is_created_again(staging: Path) -> None:
    """An owner removes the directory of a blob after publishing it; here a thread does so all the time."""
    expected = Expected(1, sha256_of(b"x"))
    assert expected.key is not None
    directory = staging / expected.key
    ended = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not ended.is_set():
            with suppress(OSError):  # not there, or not empty
                directory.rmdir()
                removed += 1

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        while removed < 250:  # now and then in the middle of `acquire`
            owned = acquire(
                staging,
                expected,
                segment_bytes=MIB,
                quiet_s=60,
                label="x",
                cancel=threading.Event(),
                is_published=lambda: False,
            )
            assert owned is not None
            assert owned.is_owned
            shutil.rmtree(owned.directory)
            owned.journal.close()
            other = create(staging, expected, segment_bytes=MIB)
            assert other.is_owned
            shutil.rmtree(other.directory)
            other.journal.close()
    finally:
        ended.set()
        remover.join()


def test_a_waiting_process_takes_over_when_the_first_is_killed(hub: HubService, tmp_path: Path) -> None:
    data = content(12 * MIB)
    source = on_hub(hub, data)
    with child(source, tmp_path, rate=8 * MIB) as first:
        hub.wait_until(lambda stats: stats.total_bytes_sent > 2 * MIB)
        with child(source, tmp_path) as second:
            hub.wait_until(lambda stats: stats.total_bytes_sent > 5 * MIB)
            first.kill()
            answer = done(second)
    assert answer is not None
    assert answer["resumed"] > 2 * MIB
    assert (tmp_path / "published").read_bytes() == data
    assert hub.stats().total_bytes_sent <= len(data) + LOST_BYTES
