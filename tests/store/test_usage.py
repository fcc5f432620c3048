"""Usage records: several writers lose nothing, what is kept is bounded, and nothing that is found there does harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.errors import NoPermission, UnsafeName
from paddock.store.usage import (
    MAX_CONTENT_BYTES,
    OTHER_WORKERS,
    UsageRow,
    UsageTotal,
    add_up,
    check_worker,
    parse_rows,
    write_rows,
)
from paddock.store.volume import Usage, Volume
from tests.support.stores import Q4, A, B, id_of, publish

NOW = datetime.now(UTC).replace(microsecond=0)
SERVED = Usage(requests=3, prompt_tokens=20, completion_tokens=10, uses=1, seconds=60.5)
WRITER = """
import sys
from pathlib import Path
from paddock.model.reference import Reference, SnapshotId
from paddock.store.volume import Usage, Volume
usage = Volume(Path(sys.argv[1]), worker=sys.argv[2]).usage
name = Reference.parse(sys.argv[4])
id = SnapshotId(name.model, name.ref, name.variant)
sys.stdin.read()  # until all processes are there
for _ in range(int(sys.argv[3])):
    usage.add(id, "serve", Usage(1, 10, 100, 1, 0.5))
    usage.condense()
"""


def folder(volume: Volume) -> Path:
    return volume.root / ".paddock" / "usage"


def row_of(day: datetime, *, worker: str = "w", usage: Usage = SERVED) -> UsageRow:
    return UsageRow(worker, id_of(A), "serve", day, day, usage)


def put(volume: Volume, day: date, worker: str, rows: list[UsageRow]) -> Path:
    path = folder(volume) / day.isoformat() / f"{worker}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_rows(rows))
    return path


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    workers = ["one", "one", "two"]  # the first two append to the same file
    arguments = [[sys.executable, "-c", WRITER, str(tmp_path), worker, "100", str(id_of(A))] for worker in workers]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in arguments]
    for process in processes:
        assert process.stdin
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    usage = Volume(tmp_path).usage
    assert usage.read(id_of(A)).usage == Usage(300, 3000, 30000, 300, 150.0)
    assert {row.worker: row.usage.uses for row in usage.rows()} == {"one": 200, "two": 100}


def test_uses_are_summed_by_worker_snapshot_kind_and_day(tmp_path: Path) -> None:
    yesterday = NOW - timedelta(days=1)
    usage = Volume(tmp_path, worker="gpu-7").usage
    usage.add(id_of(A), "serve", SERVED, at=yesterday)
    for _ in range(2):
        usage.add(id_of(A), "serve", SERVED, at=NOW)
    usage.add(id_of(A), "benchmark", Usage(uses=1, seconds=9), at=NOW)
    Volume(tmp_path, worker="gpu-8").usage.add(id_of(B, Q4), "restore", Usage(uses=1, seconds=2), at=NOW)
    assert [(row.worker, row.id, row.kind, row.first, row.usage) for row in usage.rows()] == [
        ("gpu-7", id_of(A), "serve", yesterday, SERVED),
        ("gpu-7", id_of(A), "benchmark", NOW, Usage(uses=1, seconds=9)),
        ("gpu-7", id_of(A), "serve", NOW, SERVED + SERVED),
        ("gpu-8", id_of(B, Q4), "restore", NOW, Usage(uses=1, seconds=2)),
    ]
    total = UsageTotal.of(usage.rows())
    assert (total.usage.uses, total.usage.seconds, total.workers) == (5, 192.5, ("gpu-7", "gpu-8"))
    assert (total.first, total.last) == (yesterday, NOW)


def test_a_use_sets_the_time_of_the_last_use(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    assert usage.last_used(id_of(A)) is None
    usage.touch(id_of(A))
    first = usage.last_used(id_of(A))
    usage.add(id_of(A), "serve", SERVED)
    second = usage.last_used(id_of(A))
    assert first
    assert second
    assert NOW <= first <= second <= datetime.now(UTC)
    assert usage.read(id_of(A)).usage == SERVED
    assert usage.last_used(id_of(A, Q4)) is None
    os.utime(folder(Volume(tmp_path)) / "org--name" / A / "Q8_0", (2e10, 2e10))  # by a clock that is wrong
    assert usage.last_used(id_of(A)) <= datetime.now(UTC)  # type: ignore[operator]  # there was a use


def test_a_removed_snapshot_keeps_its_history_and_was_not_used_if_it_comes_back(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    volume.prepare()
    publish(volume, A, {"m.gguf": b"a"}, tmp_path)
    volume.usage.add(id_of(A), "serve", SERVED)
    volume.remove(id_of(A).model)
    assert volume.usage.last_used(id_of(A)) is None
    assert volume.usage.read(id_of(A)).usage == SERVED


def test_a_record_of_an_earlier_format_is_a_time_only(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    usage.touch(id_of(A))
    (folder(Volume(tmp_path)) / "org--name" / A / "Q8_0").write_text('{"requests": 5}')
    usage.add(id_of(A), "serve", SERVED)
    assert usage.read(id_of(A)).usage == SERVED


def test_earlier_days_and_months_are_added_up_and_mean_the_same(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    start = datetime(2025, 12, 30, 8, tzinfo=UTC)
    for age in range(40):  # 30 December to 7 February
        for worker in ("one", "two"):
            put(volume, (start + timedelta(age)).date(), worker, [row_of(start + timedelta(age), worker=worker)] * 5)
    before = volume.usage.rows()
    volume.usage.condense(today=date(2026, 2, 8))
    assert volume.usage.rows() == before
    names = sorted(path.name for path in folder(volume).iterdir())
    assert names == ["2025-12.jsonl", "2026-01.jsonl", *(f"2026-02-0{day}" for day in range(1, 8))]
    lines = [len((folder(volume) / f"2026-02-0{day}" / "one.jsonl").read_bytes().splitlines()) for day in range(1, 8)]
    assert lines == [1, 1, 1, 1, 1, 5, 5]  # the last days may still be written


def test_months_that_are_added_up_by_several_processes_count_once(tmp_path: Path) -> None:
    volume, day = Volume(tmp_path), datetime(2026, 1, 5, tzinfo=UTC)
    for age in range(20):
        put(volume, (day + timedelta(age)).date(), "w", [row_of(day + timedelta(age))])
    threads = [threading.Thread(target=Volume(tmp_path).usage.condense) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = {volume.usage.read(id_of(A)).usage.uses for _ in range(10)}
    for thread in threads:
        thread.join()
    assert seen == {20}
    assert volume.usage.read(id_of(A)).usage.uses == 20


def test_days_that_a_dead_process_left_beside_their_month_do_not_count_again(tmp_path: Path) -> None:
    volume, day = Volume(tmp_path), datetime(2026, 1, 5, tzinfo=UTC)
    put(volume, day.date(), "w", [row_of(day)])
    volume.usage.condense()
    put(volume, day.date(), "w", [row_of(day)])
    assert volume.usage.read(id_of(A)).usage == SERVED
    volume.usage.condense()
    assert [path.name for path in folder(volume).iterdir()] == ["2026-01.jsonl"]


def test_a_machine_whose_clock_is_late_loses_nothing_though_its_month_was_added_up(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    for month in (NOW, NOW.replace(day=1) + timedelta(days=32)):  # another machine's clock says that both are over
        put(volume, month.date(), "w", [row_of(NOW)])
        volume.usage.condense(today=(month + timedelta(days=40)).date())
    assert sorted(path.suffix for path in folder(volume).iterdir()) == [".jsonl", ".jsonl"]
    volume.usage.add(id_of(A), "serve", SERVED)
    volume.usage.add(id_of(A), "serve", SERVED, at=NOW - timedelta(days=400))
    assert volume.usage.read(id_of(A)).usage.uses == 4


def test_months_are_dropped_and_workers_are_merged_so_that_the_size_is_bounded(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    for month in range(30):
        at = datetime(2022 + month // 12, month % 12 + 1, 3, tzinfo=UTC)
        put(volume, at.date(), "w", [row_of(at)])
    volume.usage.condense()
    kept = sorted(path.name for path in folder(volume).iterdir())
    assert (len(kept), kept[0]) == (24, "2022-07.jsonl")
    rows = [row_of(NOW, worker=f"host-{number}") for number in range(100)]
    assert len(add_up(rows, at_most=100)) == 100
    (merged,) = add_up(rows, at_most=99)
    assert (merged.worker, merged.usage.uses) == (OTHER_WORKERS, 100)


def line(**changes: Any) -> bytes:
    value: dict[str, Any] = json.loads(row_of(NOW).to_line())
    return json.dumps({**value, **changes}).encode()


NO_ROWS: dict[str, bytes] = {
    "no JSON": b"nonsense",
    "half a line": row_of(NOW).to_line()[:50],
    "deep JSON": b"[" * 4000,
    "no object": b"[1]",
    "no text": b"\xff\xfe\x00",
    "a long line": line(worker="w" * 5000),
    "a long number": line(uses=1).replace(b'"uses": 1', b'"uses": ' + b"9" * 2000),
    "a negative number": line(uses=-1),
    "no number": line(seconds=float("nan")),
    "an endless time": line(seconds=float("inf")),
    "a truth value": line(uses=True),
    "half a request": line(requests=0.5),
    "another kind": line(kind="dance"),
    "a path as the worker": line(worker="../x"),
    "a path as the model": line(model="../../etc"),
    "a list as the model": line(model=["org/name"]),
    "a time after all times": line(last="9999-12-31T23:59:59-12:00"),
    "more than a day": line(first="2020-01-01T00:00:00+00:00"),
    "another day's end": line(first="2031-01-01T00:00:00+00:00"),
    "a day that has not come": row_of(NOW + timedelta(days=3)).to_line(),
}


@pytest.mark.parametrize("bad", NO_ROWS.values(), ids=NO_ROWS.keys())
def test_a_line_that_is_no_row_is_left_out_and_the_others_count(tmp_path: Path, bad: bytes) -> None:
    volume = Volume(tmp_path, worker="w")
    put(volume, NOW.date(), "w", []).write_bytes(row_of(NOW).to_line() + bad)
    volume.usage.add(id_of(A), "serve", SERVED, at=NOW)
    assert volume.usage.read(id_of(A)).usage == SERVED + SERVED


def test_rows_are_parsed_as_they_were_written() -> None:
    rows = [row_of(NOW), row_of(NOW, worker="v", usage=Usage())]
    assert list(parse_rows(write_rows(rows))) == rows


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(row_of(NOW, worker="v").to_line())
        file.truncate(4 * MAX_CONTENT_BYTES)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a link to a FIFO": link_to_fifo,
    "a directory": Path.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a huge file": huge,
}


@pytest.mark.parametrize("place", OBSTACLES.values(), ids=OBSTACLES.keys())
@pytest.mark.parametrize("name", [f"{NOW.date()}/v.jsonl", "2020-01.jsonl", "2020-02-02", f"org--name/{B}/Q8_0"])
def test_what_is_no_record_is_left_out(tmp_path: Path, place: Callable[[Path], object], name: str) -> None:
    volume = Volume(tmp_path, worker="w")
    volume.usage.add(id_of(A), "serve", SERVED)
    path = folder(volume) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    place(path)
    volume.usage.condense()
    assert {row.usage for row in volume.usage.rows() if row.worker == "w"} == {SERVED}
    volume.usage.last_used(id_of(B))


@pytest.mark.parametrize("name", ["", "2020-01-05"], ids=["all records", "those of a day"])
def test_a_planted_link_is_not_followed_out_of_the_volume(tmp_path: Path, name: str) -> None:
    outside = Volume(tmp_path / "outside", worker="w")
    put(outside, date(2020, 1, 5), "w", [row_of(NOW)] * 2)
    volume = Volume(tmp_path / "models", worker="w")
    planted = folder(volume) / name
    planted.parent.mkdir(parents=True)
    planted.symlink_to(folder(outside) / name)
    with suppress(NoPermission):
        volume.usage.condense()
    with suppress(NoPermission):
        volume.usage.add(id_of(A), "serve", SERVED)
    assert [path.read_bytes() for path in folder(outside).rglob("*.jsonl")] == [write_rows([row_of(NOW)] * 2)]


def test_a_snapshot_is_served_where_its_use_cannot_be_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(tmp_path)
    volume.prepare()
    publish(volume, A, {"m.gguf": b"a"}, tmp_path)
    (folder(volume)).mkdir()
    (folder(volume) / "org--name").write_text("in the way")
    with volume.lease(id_of(A)) as path:
        assert path.is_dir()
    assert "was not recorded" in caplog.text


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", ".a", "a b", "ä", "x" * 64, "-a", "a\n"])
def test_a_name_that_is_not_safe_as_a_file_name_is_no_worker(name: str) -> None:
    with pytest.raises(UnsafeName, match="the worker's name"):
        check_worker(name)
