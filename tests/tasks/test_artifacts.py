"""Untrusted text is escaped in artifacts, and the table of files names what was evicted for them."""

from __future__ import annotations

from paddock.lifecycle.eviction.evicted import EvictionRow
from tasks.artifacts import _as_text, _code, _evicted_rows, _verbatim  # the one place where they are made harmless
from tests.support.stores import A, id_of


def test_text_is_escaped_in_markdown() -> None:
    assert _as_text("![x](http://evil.example/x)\n# <b>`a`") == r"\!\[x\]\(http://evil.example/x\) \# \<b\>\`a\`"


def test_code_is_fenced_by_more_backticks_than_it_has() -> None:
    assert _code("a``b") == "``` a``b ```"
    assert _verbatim("a\n````\nb").splitlines()[0] == "```````text"


def test_what_was_evicted_has_the_columns_of_the_files() -> None:
    rows = _evicted_rows([EvictionRow(id_of(A), 2048, "a fetch needs room")], "why")
    assert rows == [
        {
            "file": "org/name:Q8_0@aaaaaaaa",
            "size": "2.0 KiB",
            "from": "evicted",
            "why": "a fetch needs room",
            "sha256": "",
        }
    ]
