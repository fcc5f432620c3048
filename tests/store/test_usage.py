"""What a snapshot was used for: sums that many servers add to."""

from __future__ import annotations

import threading
from pathlib import Path

from paddock.store import usage
from paddock.store.usage import Usage
from paddock.store.volume import Volume
from tests.support.stores import Q4, A, B, id_of


def test_what_several_servers_add_at_once_is_all_there(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    threads = [
        threading.Thread(target=lambda: [usage.add(mark, Usage(1, 10, 100)) for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage.read(mark) == Usage(200, 2000, 20000)


def test_a_mark_that_only_says_when_counts_as_nothing_and_is_a_use(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    assert volume.usage(id_of(A)) == Usage()
    volume.touch_usage(id_of(A))
    assert volume.usage(id_of(A)) == Usage()
    first = volume.last_used(id_of(A))
    volume.add_usage(id_of(A), Usage(1, 2, 3))
    volume.touch_usage(id_of(A))
    assert volume.usage(id_of(A)) == Usage(1, 2, 3)
    second = volume.last_used(id_of(A))
    assert first is not None
    assert second is not None
    assert second >= first


def test_each_variant_of_a_revision_is_counted_by_itself(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    volume.add_usage(id_of(A), Usage(1, 2, 3))
    volume.add_usage(id_of(A, Q4), Usage(10, 20, 30))
    assert volume.usage(id_of(A)) == Usage(1, 2, 3)
    assert volume.usage(id_of(A, Q4)) == Usage(10, 20, 30)
    assert volume.usage(id_of(B)) == Usage()
    assert volume.last_used(id_of(B, Q4)) is None


def test_a_mark_that_is_none_begins_anew(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("no JSON" * 100)
    assert usage.add(mark, Usage(1, 1, 1)) == Usage(1, 1, 1)
    assert usage.read(mark) == Usage(1, 1, 1)
