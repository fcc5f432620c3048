"""Usage records: sums that several servers add to, and the time of the last use."""

from __future__ import annotations

import threading
from pathlib import Path

from paddock.store.volume import Usage, Volume
from tests.support.stores import Q4, A, B, id_of


def test_concurrent_servers_lose_no_request(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    threads = [
        threading.Thread(target=lambda: [usage.add(id_of(A), Usage(1, 10, 100)) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage.read(id_of(A)) == Usage(200, 2000, 20000)


def test_a_record_with_a_time_only_counts_as_zero_and_as_a_use(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    assert usage.read(id_of(A)) == Usage()
    usage.touch(id_of(A))
    assert usage.read(id_of(A)) == Usage()
    first = usage.last_used(id_of(A))
    usage.add(id_of(A), Usage(1, 2, 3))
    usage.touch(id_of(A))
    assert usage.read(id_of(A)) == Usage(1, 2, 3)
    second = usage.last_used(id_of(A))
    assert first is not None
    assert second is not None
    assert second >= first


def test_each_variant_of_a_revision_is_counted_separately(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    usage.add(id_of(A), Usage(1, 2, 3))
    usage.add(id_of(A, Q4), Usage(10, 20, 30))
    assert usage.read(id_of(A)) == Usage(1, 2, 3)
    assert usage.read(id_of(A, Q4)) == Usage(10, 20, 30)
    assert usage.read(id_of(B)) == Usage()
    assert usage.last_used(id_of(B, Q4)) is None


def test_a_damaged_record_is_replaced(tmp_path: Path) -> None:
    usage = Volume(tmp_path).usage
    usage.touch(id_of(A))
    record = tmp_path / ".paddock" / "usage" / "org--name" / A / "Q8_0"
    record.write_text("no JSON" * 100)
    assert usage.add(id_of(A), Usage(1, 1, 1)) == Usage(1, 1, 1)
    assert usage.read(id_of(A)) == Usage(1, 1, 1)
