"""Read a file's bytes by offset, from a local file or a remote one, with a bounds-checked cursor on top.

A *source* (`ByteSource`) is a file of known size that is read by ranges. A `Cursor` reads a source from its start, and
compares every length with the bytes left in the file before it uses it. `reader` interprets the bytes.

Each read may be a network request, so the cursor reads ahead: 1 MiB at first, then an estimate from the average length
of the strings skipped so far, plus the bytes that the caller expects after them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol, Self

from paddock.errors import CorruptFile, MalformedGguf, NoPermission, NoSuchFile
from paddock.gguf.format import MAX_HEADER_BYTES
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

_FIRST_READ_BYTES = 1 << 20
_MARGIN_BYTES = 512 << 10
_MAX_READ_AHEAD_BYTES = 16 << 20
_MIN_STRINGS_FOR_AVERAGE = 1000
CURE_DOWNLOAD_AGAIN = "download the file again; if the problem stays, the repository's file is broken"
CURE_OTHER_FILE = "use another file; this one was made or changed by a faulty or hostile program"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class ByteSource(Protocol):
    """A file of known size in bytes, read by ranges. `read_at` returns fewer bytes only at the end of the file."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class FileSource:
    """A local regular file. It is opened once, so all reads see the same file even if the path is replaced.

    Raises NoSuchFile or NoPermission if the file cannot be opened or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = open_regular(path, follow=True)
        except UnusableContent as error:
            reason = error.reason.removeprefix("it ")
            raise NoSuchFile(f"{path} {reason}", cure="give the path of a .gguf file") from None
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchFile(f"the file {path} does not exist", cure="give the path of a .gguf file") from None
        except PermissionError:
            raise NoPermission(f"no permission to read {path}", cure="correct its permissions") from None
        except (OSError, ValueError) as error:
            raise NoSuchFile(f"{str(path)!r} cannot be opened: {error}", cure="give the path of a .gguf file") from None
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`. Raises CorruptFile on an I/O error."""
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
        """The open file descriptor, for callers that read the whole file."""
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


def raise_malformed(rule: str, offset: int, message: str, *, cure: str = CURE_OTHER_FILE) -> NoReturn:
    """Raise MalformedGguf for a violation of `rule` at a byte offset of the file."""
    raise MalformedGguf(message, cure=cure, rule=rule, where=f"byte {offset}")


class Cursor:
    """A read position in a source. `data` buffers the bytes from offset 0 to at least `position`."""

    def __init__(self, source: ByteSource, *, first_read_bytes: int = _FIRST_READ_BYTES) -> None:
        self.source = source
        self.size = source.size
        self.data = bytearray()
        self._first_read_bytes = first_read_bytes
        self.position = 0
        self._average_string_bytes = 16.0  # measured on the last long array

    def advance(self, length: int, description: str) -> int:
        """Buffer the next `length` bytes, move past them, and return the offset where they start.

        `description` names the bytes in the error message. Raises MalformedGguf if the file or the header limit ends
        before them.
        """
        start = self.position
        end = start + length
        if end > len(self.data):
            if end > self.size:
                raise_malformed(
                    "gguf.container.truncated",
                    start,
                    f"{description} needs {length} bytes at byte {start}, but the file ends at byte {self.size}",
                    cure=CURE_DOWNLOAD_AGAIN,
                )
            if end > MAX_HEADER_BYTES:
                raise_malformed(
                    "gguf.container.header-size",
                    start,
                    f"{description} makes the header longer than the limit of {MAX_HEADER_BYTES} bytes",
                )
            self._fill(end)
        self.position = end
        return start

    def read_u32(self, description: str) -> int:
        start = self.advance(4, description)
        return int(_U32.unpack_from(self.data, start)[0])

    def read_u64(self, description: str) -> int:
        start = self.advance(8, description)
        return int(_U64.unpack_from(self.data, start)[0])

    def read_string(self, description: str) -> bytes:
        length = self.read_u64(f"the length of {description}")
        start = self.advance(length, description)
        return bytes(self.data[start : start + length])

    def skip_strings(self, count: int, description: str, *, followed_by_bytes: int = 0) -> None:
        """Move past `count` strings, each checked to end inside the file.

        `followed_by_bytes` is the expected number of bytes after them, for the read-ahead. The loop runs once for each
        token of a vocabulary, so it does as little as is safe: a length is at most 2**64 - 1 and Python's integers are
        exact, so a string that is too long moves the position past the end, where the next read or the final check
        raises.
        """
        unpack = _U64.unpack_from
        first = position = self.position
        remaining = count
        while remaining:
            data, skipped = self.data, 0
            try:
                for skipped in range(remaining):  # noqa: B007 -- counts the strings that were fully buffered
                    position += 8 + unpack(data, position)[0]
                remaining = 0
            except (struct.error, OverflowError):
                remaining -= skipped
                if count - remaining >= _MIN_STRINGS_FOR_AVERAGE:
                    self._average_string_bytes = (position - first) / (count - remaining)
                # Tokens get longer towards the end of a vocabulary. An overestimate is not wasted: the bytes that
                # follow are needed too.
                growth = 1.25 if followed_by_bytes else 1.0
                ahead = int(remaining * self._average_string_bytes * growth) + followed_by_bytes
                self._buffer_strings(first, position + 8, description, read_ahead_to=position + ahead)
        self._buffer_strings(first, position, description)
        if count >= _MIN_STRINGS_FOR_AVERAGE:
            self._average_string_bytes = (position - first) / count
        self.position = position

    def _buffer_strings(self, first: int, end: int, description: str, *, read_ahead_to: int = 0) -> None:
        """Buffer the bytes up to `end`. If that is past the end of the file or the header limit, raise for the string
        that is too long; `first` is the offset of the first string.
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
            self.read_string(f"a string of {description}")  # raises, because the string does not fit
        self._fill(end, read_ahead_to=read_ahead_to)

    def _fill(self, end: int, *, read_ahead_to: int = 0) -> None:
        """Read from the source until at least `end` bytes are buffered, and ahead to `read_ahead_to` plus a margin,
        but never past the end of the file.
        """
        buffered = len(self.data)
        ahead = min(read_ahead_to, buffered + _MAX_READ_AHEAD_BYTES)
        target = max(end, ahead) + _MARGIN_BYTES if buffered else max(end, self._first_read_bytes)
        target = min(target, self.size, max(end, MAX_HEADER_BYTES))
        while len(self.data) < end:
            buffered = len(self.data)
            piece = self.source.read_at(buffered, target - buffered)
            if not piece:
                raise_malformed(
                    "gguf.container.truncated",
                    buffered,
                    f"the file ends at byte {buffered}, before its size of {self.size} bytes",
                    cure=CURE_DOWNLOAD_AGAIN,
                )
            self.data += piece
