"""The table of files names what was evicted for them."""

from __future__ import annotations

from paddock.lifecycle.eviction.evicted import EvictionRow
from tasks.artifacts import _evicted_rows
from tests.support.stores import A, id_of


def test_what_was_evicted_has_the_columns_of_the_files() -> None:
    rows = _evicted_rows([EvictionRow(id_of(A), 2048, "a fetch needs room")], "why")
    assert rows == [
        {
            "file": "org/name:Q8_0@aaaaaaaa",
            "size": "2.0 KiB",
            "from": "evicted",
            "why": "a fetch needs room",
        }
    ]
