"""The token that `hf auth login` stored: what is accepted, and what is refused with the name of the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import BadSetting
from paddock.model.names import ModelName
from tests.hub.conftest import TOKEN, client

MODEL = ModelName.parse("org/private")


@pytest.fixture
def private(hub: HubService) -> str:
    hub.hub.grant(TOKEN, "org/private")
    return hub.repository("org/private", private=True).commit({"config.json": b"{}"})


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [TOKEN, f"{TOKEN}\n", f"{TOKEN}\r\n", f"  {TOKEN}\n\n", f"\ufeff{TOKEN}\r\n"],
    ids=["bare", "newline", "Windows newline", "spaces", "byte order mark"],
)
def test_a_stored_token_is_used(hub: HubService, private: str, stored_token: Path, content: str) -> None:
    stored_token.write_bytes(content.encode())
    assert client(hub).listing(MODEL).revision == private


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"], ids=["empty", "newline", "byte order mark"])
def test_an_empty_token_file_is_no_token(hub: HubService, stored_token: Path, content: bytes) -> None:
    stored_token.write_bytes(content)
    assert client(hub).token() is None


UNUSABLE: list[tuple[str, Callable[[Path], object], str]] = [
    ("a folder", Path.mkdir, "Is a directory"),
    ("UTF-16", write(codecs.BOM_UTF16_LE + TOKEN.encode("utf-16-le")), "it is not UTF-8 text"),
    ("UTF-16 without a mark", write(TOKEN.encode("utf-16-le")), "it contains characters that no token has"),
    ("binary", write(bytes(range(256))), "it is not UTF-8 text"),
    ("another text", write(b"my token is secret"), "it contains characters that no token has"),
    ("a link to itself", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in UNUSABLE], ids=[row[0] for row in UNUSABLE])
def test_an_unusable_token_file_is_a_permanent_error_that_names_it(
    hub: HubService, private: str, stored_token: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(stored_token)
    hub.reset_stats()
    with pytest.raises(BadSetting, match=f"the token file {stored_token} is not usable: {reason}") as caught:
        client(hub).listing(MODEL)
    assert "HF_TOKEN" in caught.value.cure
    assert TOKEN not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert hub.stats().total_requests == 0
    assert client(hub, token=TOKEN).listing(MODEL).revision == private, "as the cure says"
