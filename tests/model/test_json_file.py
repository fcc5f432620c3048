"""JSON files of an uploader: read where they can be, and otherwise ignored with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddock.model.json_file import MAX_JSON_BYTES, file_problem, read_json_object

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 6731\n"
BROKEN = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n\t", "it is empty"),
    "a pointer": (POINTER, "it is a Git LFS pointer and not the file itself"),
    "cut off": (b'{"bos_token": "<s', "it is not JSON: Unterminated string starting at at line 1, column 15"),
    "not UTF-8": (b'{"a": "\xff"}', "it is not UTF-8: byte 7 cannot be decoded"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it is not UTF-8: byte 0 cannot be decoded"),
    "too deep": (b"[" * 200_000, "it is nested deeper than 64 levels"),
    "a page": (b"<!doctype html>", "it is not JSON: Expecting value at line 1, column 1"),
}
OF_ANOTHER_TYPE = {b"[1]": "a list", b'"text"': "a text", b"true": "a truth value", b"1.5": "a number", b"null": "null"}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_read_as_empty_with_the_reason(tmp_path: Path, case: str) -> None:
    data, reason = BROKEN[case]
    path = tmp_path / "config.json"
    path.write_bytes(data)
    assert read_json_object(path) == ({}, reason)
    assert file_problem(path) == reason


@pytest.mark.parametrize("data", OF_ANOTHER_TYPE, ids=OF_ANOTHER_TYPE.get)
def test_json_of_another_type_is_no_object(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    assert read_json_object(path) == ({}, f"an object was expected, and it holds {OF_ANOTHER_TYPE[data]}")
    assert file_problem(path) is None, "a file that Paddock does not read may hold any JSON"


def test_a_sound_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for data in (b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}'):
        path.write_bytes(data)
        assert read_json_object(path) == ({"a": 1}, None)
        assert file_problem(path) is None


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    directory, pipe, loop = (tmp_path / f"{name}.json" for name in ("directory", "pipe", "loop"))
    directory.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    assert read_json_object(directory) == ({}, "it is a directory")
    assert read_json_object(pipe) == ({}, "it is not a regular file")
    assert "leads back to itself" in str(read_json_object(loop)[1])
    assert read_json_object(tmp_path / "absent.json") == ({}, None)


def test_a_large_file_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(MAX_JSON_BYTES + 1)
    assert read_json_object(path) == ({}, f"it is larger than {MAX_JSON_BYTES} bytes")
    assert file_problem(path) is None


def test_a_file_that_is_no_json_by_its_name_is_only_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for data, reason in ((b"\x00\xff", None), (b"", "it is empty"), (POINTER, BROKEN["a pointer"][1])):
        path.write_bytes(data)
        assert file_problem(path) == reason
