"""Bytes of a file by ranges, local or remote, and a cursor that never goes past what is there.

A *source* is a file of known size. A *cursor* reads it from its start, and compares every length with the bytes that
are left before anything is done with it. What the bytes mean is the reader's to say.

Each read may be a request over a network, so the cursor looks ahead: 1 MiB at first; then as far as the strings that it
passes over will reach if they go on as they began, and what the reader says will follow them.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol, Self

from paddock.errors import CorruptFile, MalformedGguf, NoPermission, NoSuchFile
from paddock.gguf.format import MAX_HEADER_BYTES

_FIRST_BLOCK_BYTES = 1 << 20
_BEYOND_BYTES = 512 << 10
_FURTHEST_OUTLOOK_BYTES = 16 << 20
_ENOUGH_FOR_AN_AVERAGE = 1000
FETCH_AGAIN = "fetch the file again; if it stays like this, the repository's file is broken"
BROKEN = "use another file; this one was made or changed by a faulty or hostile program"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class ByteSource(Protocol):
    """A file of known size that is read by ranges. `read_at` gives fewer bytes only at the end."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class FileSource:
    """A local regular file. Opened once, so that what is read is one and the same file whatever happens to its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchFile(f"there is no file {path}", cure="give the path of a .gguf file") from None
        except PermissionError:
            raise NoPermission(f"{path} may not be read", cure="correct its permissions") from None
        except (OSError, ValueError) as error:
            raise NoSuchFile(f"{str(path)!r} cannot be opened: {error}", cure="give the path of a .gguf file") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise NoSuchFile(f"{path} is not a regular file", cure="give the path of a .gguf file")
        self.size = status.st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`. Raises CorruptFile where the disk refuses."""
        parts: list[bytes] = []
        try:
            while length > 0 and (part := os.pread(self._descriptor, length, offset)):
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except OSError as error:
            raise CorruptFile(
                f"{self.path} cannot be read at byte {offset}: {error.strerror}", cure="check the disk"
            ) from None
        return b"".join(parts)

    @property
    def descriptor(self) -> int:
        """The open file, for who reads all of it."""
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def breach(rule: str, offset: int, message: str, *, cure: str = BROKEN) -> NoReturn:
    raise MalformedGguf(message, cure=cure, rule=rule, where=f"byte {offset}")


class Cursor:
    """A position in a source, and the bytes from its start to some way beyond that position."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.size = source.size
        self.data = bytearray()
        self.position = 0
        self._average_bytes = 16.0  # of the last long array's strings

    def need(self, length: int, what: str) -> int:
        """Make `length` bytes at the position available, move past them, and return where they begin."""
        start = self.position
        end = start + length
        if end > len(self.data):
            if end > self.size:
                breach(
                    "gguf.container.truncated",
                    start,
                    f"{what} needs {length} bytes at byte {start}, and {self.size - start} are left in the file",
                    cure=FETCH_AGAIN,
                )
            if end > MAX_HEADER_BYTES:
                breach(
                    "gguf.container.header-size", start, f"{what} makes the header longer than {MAX_HEADER_BYTES} bytes"
                )
            self._fill(end)
        self.position = end
        return start

    def u32(self, what: str) -> int:
        start = self.need(4, what)
        return int(_U32.unpack_from(self.data, start)[0])

    def u64(self, what: str) -> int:
        start = self.need(8, what)
        return int(_U64.unpack_from(self.data, start)[0])

    def string(self, what: str) -> bytes:
        length = self.u64(f"the length of {what}")
        start = self.need(length, what)
        return bytes(self.data[start : start + length])

    def skip_strings(self, count: int, what: str, *, followed_by_bytes: int = 0) -> None:
        """Move past `count` strings, each bounded by the file. This loop sees every token, so it does the least that is
        safe. `followed_by_bytes` are likely to come after them.

        A length is at most 2**64 - 1 and Python's integers are exact, so a string that is too long takes the position
        past the end, where the next read, or the check at the end, stops it.
        """
        unpack = _U64.unpack_from
        first = position = self.position
        left = count
        while left:
            data, enough = self.data, 0
            try:
                for enough in range(left):  # noqa: B007 -- how many were enough data for says where to go on
                    position += 8 + unpack(data, position)[0]
                left = 0
            except (struct.error, OverflowError):
                left -= enough
                if count - left >= _ENOUGH_FOR_AN_AVERAGE:
                    self._average_bytes = (position - first) / (count - left)
                # Strings of a vocabulary grow longer; what is too much for them is part of what follows.
                growth = 1.25 if followed_by_bytes else 1.0
                ahead = int(left * self._average_bytes * growth) + followed_by_bytes
                self._reach(first, position + 8, what, outlook=position + ahead)
        self._reach(first, position, what)
        if count >= _ENOUGH_FOR_AN_AVERAGE:
            self._average_bytes = (position - first) / count
        self.position = position

    def _reach(self, first: int, end: int, what: str, *, outlook: int = 0) -> None:
        """Make the bytes up to `end` available; where that is past the file or the limit, name the string that led
        there.
        """
        if end <= len(self.data):
            return
        limit = min(self.size, MAX_HEADER_BYTES)
        if end > limit:
            position = first
            while position + 8 <= len(self.data):
                end = position + 8 + _U64.unpack_from(self.data, position)[0]
                if end > limit:
                    break
                position = end
            self.position = position
            self.string(f"a string of {what}")  # raises: it does not fit
        self._fill(end, outlook=outlook)

    def _fill(self, end: int, *, outlook: int = 0) -> None:
        """Read on from the source until `end` bytes are there, and on to where the rest is likely to end; never past
        the file."""
        have = len(self.data)
        likely = min(outlook, have + _FURTHEST_OUTLOOK_BYTES)
        wanted = max(end, likely) + _BEYOND_BYTES if have else max(end, _FIRST_BLOCK_BYTES)
        wanted = min(wanted, self.size, max(end, MAX_HEADER_BYTES))
        while len(self.data) < end:
            have = len(self.data)
            more = self.source.read_at(have, wanted - have)
            if not more:
                breach(
                    "gguf.container.truncated",
                    have,
                    f"the file ends at byte {have}, before its size of {self.size}",
                    cure=FETCH_AGAIN,
                )
            self.data += more
