"""The search for secrets finds each of their forms, and nothing that is allowed."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.secret_search import Place, SecretSearch, files

SECRET = 'canary/+"é?~~ÿof=a&test'
SEARCH = SecretSearch({"a token": SECRET, "another": "hf_another"}, allowed=[("another", "its file")])


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"user:"], ids=repr)
@pytest.mark.parametrize("after", [b"", b"z", b"yz", b"@host:80"], ids=repr)
def test_a_secret_is_found_in_base64_whatever_stands_around_it(before: bytes, after: bytes) -> None:
    text = before + SECRET.encode() + after
    for encode in (b64encode, urlsafe_b64encode):
        assert SEARCH.found([Place("a log", b"Basic " + encode(text) + b"\n")]) == {"a token, base64, in a log"}


@pytest.mark.parametrize("newline", [b"\n", b"\\n"], ids=["lines", "lines in JSON"])
def test_a_secret_is_found_in_base64_that_is_broken_into_lines(newline: bytes) -> None:
    encoded = b64encode(b"a" * 40 + SECRET.encode())
    lines = newline.join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    assert SEARCH.found([Place("a result", lines)]) == {"a token, base64, in a result"}


def test_a_secret_is_found_plain_quoted_and_in_json() -> None:
    assert SEARCH.found([Place("a log", SECRET.encode())]) == {"a token, plain, in a log"}
    assert SEARCH.found([Place("a log", quote(SECRET, safe="").encode())]) == {"a token, URL-quoted, in a log"}
    quoted = SECRET.replace('"', '\\"').replace("é", "\\u00e9").replace("ÿ", "\\u00ff")
    assert SEARCH.found([Place("a log", quoted.encode())]) == {"a token, JSON, in a log"}


def test_a_secret_is_allowed_in_its_own_place_alone() -> None:
    places = [Place("its file", b"hf_another"), Place("a log", b"hf_another"), Place("its file", SECRET.encode())]
    assert SEARCH.found(places) == {"another, plain, in a log", "a token, plain, in its file"}
    assert SEARCH.found([Place("a log", b"hf_anothe r")]) == set()


def test_files_links_and_their_names_are_searched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "hf_another").write_text("nothing")
    (tmp_path / "a" / "file").write_text("a hf_another b")
    (tmp_path / "a" / "link").symlink_to("nowhere/hf_another")
    assert SEARCH.found(files(tmp_path)) == {
        "another, plain, in a/hf_another",
        "another, plain, in a/file",
        "another, plain, in the link a/link",
    }
