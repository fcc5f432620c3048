"""Counters of a worker on the volume: they add up over processes, stay small, and trust nothing that lies there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.errors import NoPermission
from paddock.store.volume import Volume
from paddock.store.volume.counters import COMPACT_BYTES

ADD = """
import sys
from pathlib import Path
from paddock.store.volume import Volume
volume = Volume(Path(sys.argv[1]), worker="gpu-7")
for _ in range(int(sys.argv[2])):
    volume.counters.add({"received_bytes": {"hub": 2.0, "s3": 1.0}, "failures": {"HubUnavailable": 1}})
"""


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path / "models", worker="gpu-7")
    volume.prepare()
    return volume


def file_of(volume: Volume) -> Path:
    return volume.root / ".paddock" / "counters" / "gpu-7.jsonl"


def test_each_counter_begins_with_zero_for_each_label(volume: Volume) -> None:
    counts = volume.counters.read()
    assert counts["received_bytes"] == {"hub": 0, "s3": 0}
    assert counts["evicted_snapshots"] == {"volume": 0, "s3": 0}
    assert counts["failures"]["HubUnavailable"] == counts["failures"]["CorruptFile"] == 0
    assert "PaddockError" not in counts["failures"]
    assert not file_of(volume).exists()


def test_processes_that_count_at_once_lose_nothing_while_the_file_is_replaced_by_its_sum(volume: Volume) -> None:
    lines, workers = 500, 4
    command = [sys.executable, "-c", ADD, str(volume.root), str(lines)]
    running = [subprocess.Popen(command) for _ in range(workers)]
    assert [process.wait(60) for process in running] == [0] * workers
    counts = volume.counters.read()
    assert counts["received_bytes"] == {"hub": 2 * lines * workers, "s3": lines * workers}
    assert counts["failures"]["HubUnavailable"] == lines * workers
    one_line = len(b'{"received_bytes": {"hub": 2.0, "s3": 1.0}, "failures": {"HubUnavailable": 1}}\n')
    assert one_line * lines * workers > 2 * COMPACT_BYTES  # so that it was replaced more than once
    assert file_of(volume).stat().st_size < COMPACT_BYTES + one_line


def test_workers_have_files_of_their_own(volume: Volume) -> None:
    volume.counters.add({"evicted_bytes": {"volume": 5}})
    assert Volume(volume.root, worker="gpu-8").counters.read()["evicted_bytes"]["volume"] == 0


def test_a_run_adds_where_another_one_keeps_the_lock(volume: Volume) -> None:
    volume.counters.add({"evicted_bytes": {"volume": 5}})
    with file_of(volume).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        volume.counters.add({"evicted_bytes": {"volume": 6}})
    assert volume.counters.read()["evicted_bytes"]["volume"] == 11


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[1]",
        b'{"received_bytes": {"hub": -1}}',
        b'{"received_bytes": {"hub": true}}',
        b'{"received_bytes": {"hub": "9"}}',
        b'{"received_bytes": {"hub": 1e99}}',
        b'{"received_bytes": {"hub": NaN}}',
        b'{"received_bytes": {"elsewhere": 9}}',
        b'{"received_bytes": [9]}',
        b'{"failures": {"KeyboardInterrupt": 9, "PaddockError": 9}}',
        b'{"unknown": {"hub": 9}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_not_one_of_paddocks_is_left_out(volume: Volume, line: bytes) -> None:
    empty = volume.counters.read()
    file_of(volume).parent.mkdir()
    file_of(volume).write_bytes(line + b"\n")
    assert volume.counters.read() == empty
    volume.counters.add({"received_bytes": {"hub": 7}})
    assert volume.counters.read()["received_bytes"]["hub"] == 7


def test_a_planted_large_file_is_replaced_by_the_sum_of_its_beginning(volume: Volume) -> None:
    file_of(volume).parent.mkdir()
    with file_of(volume).open("wb") as file:
        file.write(json.dumps({"received_bytes": {"hub": 7}}).encode() + b"\n")
        file.truncate(1 << 40)
    volume.counters.add({"received_bytes": {"hub": 1}})
    assert volume.counters.read()["received_bytes"]["hub"] == 8
    assert file_of(volume).stat().st_size < 1000


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_no_file_counts_as_empty_and_is_not_written(volume: Volume, kind: str, tmp_path: Path) -> None:
    empty, path, outside = volume.counters.read(), file_of(volume), tmp_path / "outside"
    path.parent.mkdir()
    outside.write_bytes(b'{"received_bytes": {"hub": 7}}\n')
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert volume.counters.read() == empty
    with pytest.raises(NoPermission):
        volume.counters.add({"received_bytes": {"hub": 1}})
    assert outside.read_bytes() == b'{"received_bytes": {"hub": 7}}\n'
