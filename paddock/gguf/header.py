"""Value types for a parsed GGUF header: `Header`, `Tensor` and `Array`.

The *header* is everything before the tensor data: counts, metadata, and the tensor table. An `Array` keeps the offsets
of its items and decodes them on demand, because a vocabulary can have a million entries.

`paddock.gguf.reader` builds these values and guarantees the rules of the format (lengths, types, offsets). Whether the
model makes sense is checked in `paddock.gguf.rules`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from paddock.gguf.format import SCALARS, GgmlType, ValueType

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata: `count` items of `type`, at the file offsets from `start` (inclusive) to `end`
    (exclusive). `prefix` holds the file's bytes from offset 0 to at least `end`.
    """

    type: ValueType
    count: int
    start: int
    end: int
    prefix: bytes = field(repr=False, compare=False)

    def numbers(self) -> tuple[int | float | bool, ...]:
        """Return the items of an array of numbers or bools."""
        return struct.unpack_from(f"<{self.count}{SCALARS[self.type]}", self.prefix, self.start)

    def raw(self) -> list[bytes]:
        """Return the items of an array of strings, undecoded."""
        return list(self.iter_raw())

    def iter_raw(self) -> Iterator[bytes]:
        """Iterate over the undecoded items of an array of strings, without building a list."""
        position, data, unpack = self.start, self.prefix, _LENGTH.unpack_from
        for _ in range(self.count):
            end = position + 8 + unpack(data, position)[0]
            yield data[position + 8 : end]
            position = end

    def texts(self) -> list[str]:
        """Return the decoded items of an array of strings. Invalid UTF-8 becomes U+FFFD."""
        return [item.decode(errors="replace") for item in self.iter_raw()]

    def text(self, index: int) -> str:
        """Return one decoded item of an array of strings, without decoding the others. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        position, unpack = self.start, _LENGTH.unpack_from
        for _ in range(index):
            position += 8 + unpack(self.prefix, position)[0]
        (length,) = unpack(self.prefix, position)
        return self.prefix[position + 8 : position + 8 + length].decode(errors="replace")


Value = bool | int | float | str | Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """An entry of the tensor table. `shape` is in GGUF order, row length first. `offset` is in bytes, relative to the
    header's `data_offset`.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    `types` has the value type of each key in `metadata`. `data_offset` is the file offset of the tensor data. `size` is
    the size of the whole file in bytes, `bytes_read` how much of it was read to parse the header. `prefix` holds the
    header's own bytes: it starts at offset 0 and ends at or before `data_offset`.
    """

    version: int
    metadata: Mapping[str, Value]
    types: Mapping[str, ValueType]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_offset: int
    size: int
    bytes_read: int
    prefix: bytes = field(repr=False, compare=False)

    @property
    def architecture(self) -> str | None:
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None

    def text(self, key: str) -> str | None:
        """Return the string at `key`, or None if the key is missing or not a string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """Return the integer at `key`, or None if the key is missing or not an integer."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def array(self, key: str) -> Array | None:
        """Return the array at `key`, or None if the key is missing or not an array."""
        value = self.metadata.get(key)
        return value if isinstance(value, Array) else None

    def architecture_value(self, suffix: str) -> Value | None:
        """Return the value at `<architecture>.<suffix>`, or None if the key is missing."""
        return self.metadata.get(f"{self.architecture}.{suffix}")

    @property
    def data_end(self) -> int:
        """The file offset just after the last tensor's data, excluding padding."""
        last = self.tensors[-1] if self.tensors else None
        return self.data_offset + (last.offset + last.size_bytes if last else 0)
