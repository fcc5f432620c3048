"""Untrusted text is harmless in Markdown."""

from __future__ import annotations

from tasks.markdown import as_text, code, verbatim


def test_text_is_escaped() -> None:
    assert as_text("![x](http://evil.example/x)\n# <b>`a`") == r"\!\[x\]\(http://evil.example/x\) \# \<b\>\`a\`"


def test_code_is_fenced_by_more_backticks_than_it_has() -> None:
    assert code("a``b") == "``` a``b ```"
    assert verbatim("a\n````\nb").splitlines()[0] == "```````text"
