"""Untrusted text is escaped in artifacts."""

from __future__ import annotations

from tasks.artifacts import _as_text, _code, _verbatim  # the one place where they are made harmless


def test_text_is_escaped_in_markdown() -> None:
    assert _as_text("![x](http://evil.example/x)\n# <b>`a`") == r"\!\[x\]\(http://evil.example/x\) \# \<b\>\`a\`"


def test_code_is_fenced_by_more_backticks_than_it_has() -> None:
    assert _code("a``b") == "``` a``b ```"
    assert _verbatim("a\n````\nb").splitlines()[0] == "```````text"
