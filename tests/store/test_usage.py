"""What a snapshot was used for: sums that many servers add to."""

from __future__ import annotations

import threading
from pathlib import Path

from paddock.model.names import ModelName, Revision
from paddock.store import usage
from paddock.store.usage import Usage
from paddock.store.volume import Volume

MODEL, REVISION = ModelName.parse("org/name"), Revision("a" * 40)


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
    assert volume.usage(MODEL, REVISION) == Usage()
    volume.touch_usage(MODEL, REVISION)
    assert volume.usage(MODEL, REVISION) == Usage()
    first = volume.last_used(MODEL, REVISION)
    volume.add_usage(MODEL, REVISION, Usage(1, 2, 3))
    volume.touch_usage(MODEL, REVISION)
    assert volume.usage(MODEL, REVISION) == Usage(1, 2, 3)
    second = volume.last_used(MODEL, REVISION)
    assert first is not None
    assert second is not None
    assert second >= first


def test_a_mark_that_is_none_begins_anew(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("no JSON" * 100)
    assert usage.add(mark, Usage(1, 1, 1)) == Usage(1, 1, 1)
    assert usage.read(mark) == Usage(1, 1, 1)
