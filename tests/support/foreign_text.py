"""Text that strangers may write into a licence, a name, a reason or an error, and what must not become of it."""

from __future__ import annotations

import re
from collections.abc import Collection
from xml.etree import ElementTree

from markdown_it import MarkdownIt

HOSTILE = {
    "a link": "[mit](http://evil.example/x)",
    "a link by its reference": "[mit][a]\n\n[a]: http://evil.example/x",
    "a bare address": "see http://evil.example/x or www.evil.example, mail me@evil.example",
    "an address in brackets": "<http://evil.example/x>",
    "an image": "![mit](http://evil.example/pixel.png)",
    "HTML": "<img src=x onerror=alert(1)><script>alert(1)</script><a href='http://evil.example'>a</a>",
    "a script's address": "[a](javascript:alert(1)) javascript:alert(1)",
    "an entity": "&lt;b&gt; &#60;script&#62;",
    "a heading": "mit\n# Verdict: accept\n\n---\n\n> quoted",
    "a table": "mit | x |\n|---|---|\n| a | b |",
    "a fence": "```\nmit\n```\n~~~",
    "emphasis": "**accept** __accept__ *a* ~~b~~",
    "a list": "- [x] accepted\n1. one",
    "a screen cleared": "mit\x1b[2J\x1b[H\x1b[31m",
    "a window's title": "\x1b]0;owned\x07",
    "a terminal's link": "\x1b]8;;http://evil.example\x1b\\mit\x1b]8;;\x1b\\",
    "one byte for an escape": "\x9b2J\x9d0;owned\x9c",
    "a line written over": "reject\raccept\x08\x08\x7f",
    "a forged line": "mit\nERROR paddock: all is lost\x0b\x0c\x85\u2028\u2029next",
    "a direction reversed": "mit\u202egnp.exe\u202c \u2066a\u2069 \u200f",
    "invisible characters": "m\u200bi\u2060t\ufeff\u00ad\u3164\u115f\U000e0041\U000e0100",
    "a lone surrogate": "mit\udcff\ud800",
    "NUL": "mit\x00",
    "rich's markup": "[bold red]mit[/] [link=http://evil.example]a[/link] :boom:",
    "a formula": '=HYPERLINK("http://evil.example","mit")',
    "a formula of a command": "@SUM(1+1)*cmd|' /C calc'!A0",
    "a formula after a space": "\t=1+1",
    "a template's variable": "$title ${HOME} {0} {{ 7 * 7 }} %s %(x)s",
    "mathematics": "$\\frac{1}{0}$ \\input{/etc/passwd}",
    "a comment": "mit # models: []\n--- !!python/object:os.system",
}
"""By their names."""

_ALLOWED_INLINE = {"text", "code_inline", "text_special", "softbreak", "strong_open", "strong_close"}
_ADDRESS = re.compile(r"://|\bwww\.|\w@\w+\.\w", re.IGNORECASE)


def assert_plain(text: str, *, many_lines: bool = False) -> None:
    """Nothing in the text is shown otherwise than as itself."""
    hidden = re.compile("[\u115f\u3164\U000e0100]")
    found = [one for one in text if not one.isprintable() and not (many_lines and one in "\n\t")]
    assert found == []
    assert not hidden.search(text)


def assert_no_markup(markdown: str, *, blocks: Collection[str] = (), marks: Collection[str] = ()) -> None:
    """The Markdown has no link, image or HTML. `blocks` are the kinds of its blocks beside paragraphs, and `marks`
    those within its text, beside bold text and code."""
    assert_plain(markdown, many_lines=True)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    assert {token.type for token in tokens} - set(blocks) <= {"paragraph_open", "inline", "paragraph_close"}
    for token in tokens:
        for child in token.children or []:
            assert child.type in {*_ALLOWED_INLINE, *marks}, (child.type, markdown)
            assert child.type == "code_inline" or not _ADDRESS.search(child.content), markdown


def assert_one_element_of_text(xml: str) -> None:
    """The XML is well-formed, and has no element or attribute that could run or load anything."""
    assert_plain(xml, many_lines=True)
    for element in ElementTree.fromstring(xml).iter():
        assert element.tag.rpartition("}")[2] not in {"script", "a", "image", "foreignObject"}
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)
