"""Untrusted text is harmless in Markdown, and is shown as it is."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from paddock.model.markdown import as_text, code, table, verbatim

HOSTILE = [
    "![x](http://evil.example/x)\n# <b>`a`",
    "a|b | c",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "*a* __b__ ~~c~~ _d_ e_f_g",
    "[a](b) [c] <script>alert(1)</script> &lt;b&gt; &amp;",
    "back\\slash \\| and \\` too",
    "`` ` ```",
    "https://evil.example www.evil.example me@evil.example",
    "http://evil.example/a|b`c",
    "---",
    "===",
    "+1",
    "|",
    "\\",
]


def shown(markdown: str) -> str:
    """The text that a reader sees, and the markup: only inline code is expected."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "code_inline", "text_special"}
    return "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    assert shown(as_text(text)) == " ".join(text.split())
    assert shown(code(text)) == " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_cell_is_shown_as_it_is_and_ends_neither_the_cell_nor_the_row(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(
        table(("one", "two"), [(as_text(text), code(text)), ("last", "row")])
    )
    cells = [token for token in tokens if token.type == "inline"]
    contents = ["".join(child.content for child in cell.children or []) for cell in cells]
    flat = " ".join(text.split())
    assert contents == ["one", "two", flat, flat, "last", "row"]


@pytest.mark.parametrize("text", ["https://evil.example", "(www.evil.example)", "me@evil.example", "http://a|b"])
def test_no_address_becomes_a_link(text: str) -> None:
    assert as_text(text).startswith("`")


def test_usual_text_stays_readable() -> None:
    assert as_text("Q4_1@1ed7a49d. Next") == "Q4_1@1ed7a49d. Next"
    text = "2 of 8 cores (25 %), q8_0 for KV: 1.5 GiB! #3 & more"
    assert as_text(text) == text


def test_characters_that_are_not_printable_are_written_out() -> None:
    assert as_text("a\x1b[2Jb\u202e\ud800") == "a\\x1b\\[2Jb\\u202e\\ud800".replace("\\x", "\\\\x").replace(
        "\\u", "\\\\u"
    )


def test_code_is_fenced_by_more_backticks_than_it_has() -> None:
    assert code("a``b") == "```a``b```"
    assert code("`a") == "`` `a ``"
    assert verbatim("a\n````\nb").splitlines()[0] == "```````text"
