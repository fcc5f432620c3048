"""What the header of a GGUF says, as values that `paddock.gguf.reader` has checked.

The *header* is everything before the tensor data: counts, metadata, and the tensor table. A large array stays bytes: an
`Array` knows its span, and reads itself when it is asked. A `Header` keeps the rules of the format by construction
(lengths, types, offsets); whether the model in it makes sense is `paddock.gguf.rules`'s to say.
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
    """An array of the metadata: `count` items of `type`, in the bytes from `start` up to and not including `end` of the
    file.
    """

    type: ValueType
    count: int
    start: int
    end: int
    prefix: bytes = field(repr=False, compare=False)

    def numbers(self) -> tuple[int | float | bool, ...]:
        """The items of an array of numbers or bools."""
        return struct.unpack_from(f"<{self.count}{SCALARS[self.type]}", self.prefix, self.start)

    def raw(self) -> list[bytes]:
        """The items of an array of strings, undecoded."""
        return list(self.each())

    def each(self) -> Iterator[bytes]:
        """The items of an array of strings one by one, for arrays that may be too long for a list."""
        position, data, unpack = self.start, self.prefix, _LENGTH.unpack_from
        for _ in range(self.count):
            end = position + 8 + unpack(data, position)[0]
            yield data[position + 8 : end]
            position = end

    def texts(self) -> list[str]:
        """The items of an array of strings; what is not UTF-8 becomes U+FFFD."""
        return [item.decode(errors="replace") for item in self.each()]

    def text(self, index: int) -> str:
        """One item of an array of strings, without a list of the others. Raises IndexError."""
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
    """A row of the tensor table. `shape` is in GGUF's order, the row length first; `offset` counts from the header's
    `data_offset`.
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
    """A parsed header. `types` are the value types of `metadata`; `prefix` is the file up to `data_offset` at the most,
    as it was read.

    `size` is the whole file's, `bytes_read` what was read of it to learn all this.
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
        """The string at `key`; None where there is none, or it is no string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The integer at `key`; None where there is none, or it is no integer."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def array(self, key: str) -> Array | None:
        value = self.metadata.get(key)
        return value if isinstance(value, Array) else None

    def of_architecture(self, suffix: str) -> Value | None:
        """The value at `<architecture>.<suffix>`."""
        return self.metadata.get(f"{self.architecture}.{suffix}")

    @property
    def data_end(self) -> int:
        """The offset in the file just after the last tensor's data, without padding."""
        last = self.tensors[-1] if self.tensors else None
        return self.data_offset + (last.offset + last.size_bytes if last else 0)
