"""Files in places where others can write: opened without waiting, without following links, and read within bounds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import (
    list_directory,
    open_regular,
    open_regular_to_append,
    read_head,
    read_regular,
)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def make_link_to_file(path: Path) -> None:
    path.with_name("target").write_bytes(b"secret")
    path.symlink_to("target")


def make_link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a named pipe": (os.mkfifo, "it is not a regular file"),
    "a socket": (make_socket, "it is not a regular file"),
    "a directory": (Path.mkdir, "it is a directory"),
    "a link to itself": (make_link_to_itself, "it is a symbolic link"),
    "a link to a file": (make_link_to_file, "it is a symbolic link"),
    "a link to a device": (make_link_to_zeros, "it is a symbolic link"),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, case: str) -> None:
    make, reason = NO_FILES[case]
    path = tmp_path / "note"
    make(path)
    for read in (
        lambda: read_regular(path, max_bytes=10),
        lambda: read_regular(path, max_bytes=10, below=tmp_path),
        lambda: open_regular_to_append(path, mode=0o600),
    ):
        with pytest.raises(UnusableContent) as refused:
            read()
        assert refused.value.reason == reason
        assert refused.value.source == str(path)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/dev/stdin", "/proc/self"])
def test_a_link_that_is_followed_leads_to_a_regular_file_or_nowhere(tmp_path: Path, target: str) -> None:
    path = tmp_path / "model.gguf"
    path.symlink_to(target)
    with pytest.raises((UnusableContent, OSError)):
        os.close(open_regular(path, follow=True))
    path.unlink()
    make_link_to_file(path)
    assert read_regular(path, max_bytes=10, follow=True) == b"secret"


def test_a_larger_file_is_refused_and_its_head_is_read(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(b"0123456789")
    assert read_regular(path, max_bytes=10) == b"0123456789"
    with pytest.raises(UnusableContent, match="it is larger than 9 bytes"):
        read_regular(path, max_bytes=9)
    assert read_head(path, max_bytes=4) == b"0123"
    with pytest.raises(FileNotFoundError, match="absent"):
        read_head(tmp_path / "absent", max_bytes=4, below=tmp_path)


def test_nothing_behind_a_linked_directory_is_read_or_listed(tmp_path: Path) -> None:
    root, outside = tmp_path / "volume", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "note").write_bytes(b"secret")
    (root / "linked").symlink_to(outside)
    (root / "real" / "up").symlink_to("../../outside")
    for directory in (root / "linked", root / "real" / "up"):
        with pytest.raises(NotADirectoryError, match=directory.name):
            read_regular(directory / "note", max_bytes=10, below=root)
        with pytest.raises(NotADirectoryError, match=directory.name):
            list_directory(directory, below=root)
    (tmp_path / "link to the root").symlink_to(root)
    assert list_directory(tmp_path / "link to the root", below=tmp_path / "link to the root") == ["linked", "real"]


def test_a_directory_with_too_many_names_is_refused(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    assert list_directory(tmp_path, max_entries=3) == ["a", "b", "c"]
    with pytest.raises(UnusableContent, match="it has more than 2 names in it"):
        list_directory(tmp_path, max_entries=2, below=tmp_path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for number, case in enumerate(NO_FILES):
        (directory := tmp_path / str(number)).mkdir()
        NO_FILES[case][0](directory / "note")
        with pytest.raises(UnusableContent):
            read_regular(directory / "note", max_bytes=1, below=tmp_path)
        with pytest.raises(OSError, match="No such file"):
            read_regular(directory / "a" / "b", max_bytes=1, below=tmp_path)
    assert set(Path("/proc/self/fd").iterdir()) == before
