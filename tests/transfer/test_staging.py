"""Staging directories: adoption of orphans, waiting for living owners, and removal of leftovers."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import TransferInterrupted
from paddock.model.source import Expected
from paddock.transfer.digest import SegmentHash
from paddock.transfer.fetch import fetch, remove_leftovers
from paddock.transfer.options import Options
from paddock.transfer.progress import Progress
from paddock.transfer.staging import acquire, create_seed, publish_seed
from tests.transfer.remote import MIB, SMALL, content, on_hub, sha256_of
from tests.transfer.resume import LOST_BYTES, create_partial, fetching_process, result_of, resume_and_check


def test_a_crash_during_adoption_does_not_block_others(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=2 * MIB)
    (directory / "journal.new").write_bytes(b"{")
    nothing = directory.with_name("without-a-journal")
    nothing.mkdir()
    os.utime(nothing, (time.time() - 61, time.time() - 61))
    assert resume_and_check(source, staging, data).resumed_bytes == 2 * MIB


def test_the_orphan_with_the_most_bytes_is_adopted_and_the_others_are_removed(hub: HubService, staging: Path) -> None:
    data = content(6 * MIB)
    source = on_hub(hub, data)
    for token, written in (("a", MIB), ("b", 3 * MIB), ("c", 2 * MIB)):
        create_partial(source, staging, data, written=written, token=token)
    assert resume_and_check(source, staging, data).resumed_bytes == 3 * MIB


def test_a_directory_of_another_machine_is_adopted_only_after_a_long_silence(hub: HubService, staging: Path) -> None:
    data = content(4 * MIB)
    source = on_hub(hub, data)
    directory = create_partial(source, staging, data, written=2 * MIB)
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
    dead = create_partial(source, staging, data, written=2 * MIB)
    elsewhere = create_partial(source, staging, data, written=MIB, token="elsewhere")
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
        fetching_process(source, tmp_path, rate=8 * MIB) as first,
        fetching_process(source, tmp_path, rate=8 * MIB) as second,
        fetching_process(source, tmp_path, rate=8 * MIB) as third,
    ):
        answers = [result_of(process) for process in (first, second, third)]
    assert (tmp_path / "published").read_bytes() == data
    assert [answer for answer in answers if answer] == [{"transferred": len(data), "resumed": 0}]
    assert hub.stats().total_bytes_sent == len(data)
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_directory_that_its_last_owner_removes_meanwhile_is_created_again(staging: Path) -> None:
    """An owner removes the directory of a blob after publishing it; here a thread does so all the time."""
    expected = Expected(1, sha256_of(b"x"))
    assert expected.key is not None
    directories = (staging / expected.key, staging / f"seed-{expected.key}")
    ended = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not ended.is_set():
            for directory in directories:
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
            seed = create_seed(staging, expected, segment_bytes=MIB, quiet_s=60)
            seed.journal.add_checkpoint(1, SegmentHash().digest)
            publish_seed(seed, staging)
            assert seed.directory.parent == directories[0]
            shutil.rmtree(seed.directory)
    finally:
        ended.set()
        remover.join()


def test_a_waiting_process_takes_over_when_the_first_is_killed(hub: HubService, tmp_path: Path) -> None:
    data = content(12 * MIB)
    source = on_hub(hub, data)
    with fetching_process(source, tmp_path, rate=8 * MIB) as first:
        hub.wait_until(lambda stats: stats.total_bytes_sent > 2 * MIB)
        with fetching_process(source, tmp_path) as second:
            hub.wait_until(lambda stats: stats.total_bytes_sent > 5 * MIB)
            first.kill()
            answer = result_of(second)
    assert answer is not None
    assert answer["resumed"] > 2 * MIB
    assert (tmp_path / "published").read_bytes() == data
    assert hub.stats().total_bytes_sent <= len(data) + LOST_BYTES
