"""Open and read files, and list directories, where others can write.

Another user of a shared volume may put anything in the place of a file: a link to a file elsewhere, a named pipe that
waits for a writer, a device without an end, a directory. So a file is opened once, without waiting, what was opened is
looked at, and at most a known number of bytes is read from that descriptor. Nothing is looked at by its name first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from paddock.untrusted.content import UnusableContent

MAX_ENTRIES: Final = 1_000_000
"""Names of one directory, unless a caller says otherwise."""
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LINK = "it is a symbolic link"
_NO_FILE = "it is not a regular file"


def open_regular(path: Path | str, *, follow: bool = False, below: Path | None = None) -> int:
    """Open a regular file for reading, and return its descriptor.

    A path that is a symbolic link is refused, unless `follow`. With `below`, a directory above the file, no directory
    between the two may be a link either. Raises UnusableContent for what is no regular file, and OSError.
    """
    flags = _FLAGS if follow else _FLAGS | os.O_NOFOLLOW
    try:
        with _parent(path, below) as (parent, name):
            descriptor = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise UnusableContent(_LINK, source=str(path)) from None
        if error.errno in {errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP}:  # a socket, or a device without a driver
            raise UnusableContent(_NO_FILE, source=str(path)) from None
        error.filename = str(path)
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            reason = "it is a directory" if stat.S_ISDIR(mode) else _NO_FILE
            raise UnusableContent(reason, source=str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path | str, *, max_bytes: int, follow: bool = False, below: Path | None = None) -> bytes:
    """Read a whole regular file of at most `max_bytes`. Raises as `open_regular`, and UnusableContent for a larger
    one."""
    content = read_head(path, max_bytes=max_bytes + 1, follow=follow, below=below)
    if len(content) > max_bytes:
        raise UnusableContent(f"it is larger than {max_bytes} bytes", source=str(path))
    return content


def read_head(path: Path | str, *, max_bytes: int, follow: bool = False, below: Path | None = None) -> bytes:
    """Read the first `max_bytes` of a regular file, or all of a shorter one. Raises as `open_regular`."""
    descriptor = open_regular(path, follow=follow, below=below)
    try:
        return read_descriptor(descriptor, max_bytes=max_bytes)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, *, max_bytes: int) -> bytes:
    """Read the first `max_bytes` of an open regular file, wherever its position is."""
    parts: list[bytes] = []
    position = 0
    while position < max_bytes and (part := os.pread(descriptor, max_bytes - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def list_directory(path: Path | str, *, max_entries: int = MAX_ENTRIES, below: Path | None = None) -> list[str]:
    """The names in a directory, sorted. Raises UnusableContent for a directory with more than `max_entries`, and, with
    `below`, as `open_regular` where the path, or a directory between the two, is a symbolic link; and OSError."""
    if below is None:
        return _names(path, os.fspath(path), max_entries)
    descriptor = open_directory(path, below=below)
    try:
        return _names(path, descriptor, max_entries)
    finally:
        os.close(descriptor)


def open_directory(path: Path | str, *, below: Path) -> int:
    """Open a directory that is `below` or lies in it, and return its descriptor. Raises UnusableContent where it, or a
    directory between the two, is a symbolic link, and OSError."""
    descriptor = os.open(below, _DIRECTORY)
    try:
        for part in Path(path).relative_to(below).parts:
            outer, descriptor = descriptor, _open_part(descriptor, part, path)
            os.close(outer)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_part(parent: int, name: str, path: Path | str) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        error.filename = str(path)
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and _is_link(name, parent):
            raise UnusableContent(f"{name} is a symbolic link", source=str(path)) from None
        raise


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _names(path: Path | str, directory: str | int, max_entries: int) -> list[str]:
    found: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > max_entries:
                raise UnusableContent(f"it has more than {max_entries} names in it", source=str(path))
    return sorted(found)


@contextmanager
def _parent(path: Path | str, below: Path | None) -> Iterator[tuple[int | None, str]]:
    """The directory of a path, as `os.open` takes it: (descriptor, name), or (None, the whole path)."""
    if below is None:
        yield None, os.fspath(path)
        return
    parent = open_directory(Path(path).parent, below=below)
    try:
        yield parent, Path(path).name
    finally:
        os.close(parent)
