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
_WITHOUT_WAITING: Final = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_READ: Final = os.O_RDONLY | _WITHOUT_WAITING
_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | _WITHOUT_WAITING
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PATH_ONLY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_FILE: Final = frozenset({errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP})  # a socket, a pipe, a device without driver


def open_regular(path: Path | str, *, follow: bool = False, below: Path | None = None) -> int:
    """Open a regular file for reading, and return its descriptor.

    A path that is a symbolic link is refused, unless `follow`. With `below`, a directory above the file, a directory
    between the two that is a link is none, and raises NotADirectoryError. Raises UnusableContent for what is no regular
    file, and OSError.
    """
    flags = _READ if follow else _READ | os.O_NOFOLLOW
    return _checked(_open(path, flags, below=below), path)


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


def open_regular_to_append(path: Path | str, *, mode: int, create: bool = True, exclusive: bool = False) -> int:
    """Open a regular file for reading and appending, and return its descriptor. With `create`, one that is missing is
    created; with `exclusive` too, it must be missing. Raises as `open_regular` without `follow`."""
    flags = _APPEND | (os.O_CREAT if create else 0) | (os.O_EXCL if exclusive else 0)
    return _checked(_open(path, flags, mode=mode, below=None), path)


def list_directory(path: Path | str, *, max_entries: int = MAX_ENTRIES, below: Path | None = None) -> list[str]:
    """The names in a directory, sorted. With `below`, a directory that is a symbolic link, or lies behind one, is no
    directory. Raises UnusableContent for a directory with more than `max_entries` names, and OSError."""
    if below is None:
        return _names(path, os.fspath(path), max_entries)
    with open_directory(path, below=below) as parent:
        descriptor = os.open(".", _DIRECTORY, dir_fd=parent)
    try:
        return _names(path, descriptor, max_entries)
    finally:
        os.close(descriptor)


@contextmanager
def open_directory(path: Path | str, *, below: Path) -> Iterator[int]:
    """Yield a descriptor for a directory, which is `below` or lies in it, as the place of names: it cannot be listed.
    Raises NotADirectoryError where it, or a directory between the two, is a symbolic link, and other OSErrors."""
    descriptor = os.open(below, _PATH_ONLY)
    try:
        for part in Path(path).relative_to(below).parts:
            try:
                inner = os.open(part, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=descriptor)
            except OSError as error:
                error.filename = str(path)
                raise
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path | str, flags: int, *, mode: int = 0, below: Path | None) -> int:
    try:
        if below is None:
            return os.open(path, flags, mode)
        with open_directory(Path(path).parent, below=below) as parent:
            return os.open(Path(path).name, flags, mode, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise UnusableContent("it is a symbolic link", source=str(path)) from None
        if error.errno == errno.EISDIR:  # only where it was opened for writing
            raise UnusableContent("it is a directory", source=str(path)) from None
        if error.errno in _NO_FILE:
            raise UnusableContent("it is not a regular file", source=str(path)) from None
        error.filename = str(path)
        raise


def _checked(descriptor: int, path: Path | str) -> int:
    """Return the descriptor of a regular file unchanged. That of anything else is closed."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    reason = "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
    raise UnusableContent(reason, source=str(path))


def _names(path: Path | str, directory: str | int, max_entries: int) -> list[str]:
    found: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > max_entries:
                raise UnusableContent(f"it has more than {max_entries} names in it", source=str(path))
    return sorted(found)
