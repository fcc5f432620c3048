"""Parse a GGUF header from any `ByteSource`, checking every count, length and offset.

The first violation of the format raises, with the rule id and the byte offset. Tensor data is not read. Whether the
model makes sense is checked in `rules`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf import format as gguf
from paddock.gguf.format import GgmlType, ValueType
from paddock.gguf.header import Array, Header, Tensor, Value
from paddock.gguf.source import CURE_DOWNLOAD_AGAIN, CURE_OTHER_FILE, ByteSource, Cursor, FileSource, raise_malformed

__all__ = ["Array", "ByteSource", "FileSource", "Header", "Tensor", "Value", "read_first_pairs", "read_header"]

_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # length, one character, type, the smallest value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, one character, dimensions, one of them, type, offset
_FIRST_PAIRS_BYTES = 64 << 10
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in gguf.SCALARS.items()}


@dataclass(frozen=True, slots=True)
class FirstPairs:
    """The first pairs of the metadata: `scalars` by key, and the number of items of each array. `tensor_count` is that
    of the file."""

    tensor_count: int
    scalars: Mapping[str, Value]
    counts: Mapping[str, int]


def read_header(source: ByteSource) -> Header:
    """Read and check the header of a GGUF file.

    Raises NotGguf or MalformedGguf at the first violation of the format; both have `rule` and `where`.
    """
    cursor = Cursor(source)
    version, tensor_count, key_count = _read_counts(cursor)
    spans: dict[str, Value | _Span] = {}
    types: dict[str, ValueType] = {}
    for _ in range(key_count):
        _read_pair(cursor, spans, types)
    alignment = _alignment(spans, types)
    rows = [_read_tensor(cursor) for _ in range(tensor_count)]
    data_offset = _round_up(cursor.position, alignment) if rows else cursor.position
    tensors = _check_layout(rows, alignment=alignment, data_offset=data_offset, size=source.size)
    prefix = bytes(cursor.data[: cursor.position])
    metadata = {
        key: Array(value.type, value.count, value.start, value.end, prefix) if isinstance(value, _Span) else value
        for key, value in spans.items()
    }
    return Header(
        version=version,
        metadata=MappingProxyType(metadata),
        types=MappingProxyType(types),
        tensors=tensors,
        alignment=alignment,
        data_offset=data_offset,
        size=source.size,
        bytes_read=len(cursor.data),
        prefix=prefix,
    )


def read_first_pairs(source: ByteSource, *, until: Callable[[Mapping[str, Value]], bool]) -> FirstPairs:
    """Read the metadata from its start up to the tokens of the vocabulary, and not beyond if `until` is true of the
    scalars so far; else all of it. Usually the first 64 KiB of the file.

    Raises NotGguf or MalformedGguf at the first violation of the format in what was read.
    """
    cursor = Cursor(source, first_read_bytes=_FIRST_PAIRS_BYTES)
    _, tensor_count, key_count = _read_counts(cursor)
    values: dict[str, Value | _Span] = {}
    types: dict[str, ValueType] = {}
    scalars: dict[str, Value] = {}
    counts: dict[str, int] = {}
    for _ in range(key_count):
        start = cursor.position
        name = cursor.read_string("a key")
        if name == b"tokenizer.ggml.tokens" and until(scalars):
            if cursor.read_u32("a type") == ValueType.ARRAY and cursor.read_u32("a type") == ValueType.STRING:
                counts[name.decode()] = cursor.read_u64("the number of tokens")
            break
        cursor.position = start
        _read_pair(cursor, values, types)
        key, value = next(reversed(values.items()))
        if isinstance(value, _Span):
            counts[key] = value.count
        else:
            scalars[key] = value
    return FirstPairs(tensor_count, MappingProxyType(scalars), MappingProxyType(counts))


def _round_up(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment


class _Span:
    """The checked bounds of an array. It becomes an `Array` once the whole header is buffered."""

    __slots__ = ("count", "end", "start", "type")

    def __init__(self, kind: ValueType, count: int, start: int, end: int) -> None:
        self.type, self.count, self.start, self.end = kind, count, start, end


def _read_magic(cursor: Cursor) -> None:
    cursor.advance(min(cursor.size, len(gguf.MAGIC)), "the magic")
    head = bytes(cursor.data[:512])
    if not head:
        raise NotGguf(
            "the file is not a GGUF: it is empty", cure=CURE_DOWNLOAD_AGAIN, rule="gguf.container.magic", where="byte 0"
        )
    if not head.startswith(gguf.MAGIC):
        foreign = gguf.detect_foreign_format(head)
        description = f"it is {foreign.name}" if foreign else f"it begins with {head[:4]!r}"
        cure = foreign.cure if foreign else CURE_DOWNLOAD_AGAIN
        raise NotGguf(f"the file is not a GGUF: {description}", cure=cure, rule="gguf.container.magic", where="byte 0")


def _read_counts(cursor: Cursor) -> tuple[int, int, int]:
    _read_magic(cursor)
    version = cursor.read_u32("the version")
    if version not in gguf.VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *gguf.VERSIONS):
            raise_malformed(
                "gguf.container.endianness",
                4,
                "the file is big-endian, but the engine reads only little-endian files",
                cure="use a little-endian file",
            )
        raise_malformed(
            "gguf.container.version",
            4,
            f"the GGUF version is {version}, supported are 2 and 3",
            cure="use a file that was converted with a current llama.cpp",
        )
    tensor_count = cursor.read_u64("the number of tensors")
    key_count = cursor.read_u64("the number of keys")
    left = cursor.size - cursor.position
    for kind, count, maximum, min_bytes, at in (
        ("tensors", tensor_count, gguf.MAX_TENSORS, _MIN_TENSOR_BYTES, 8),
        ("keys", key_count, gguf.MAX_KEYS, _MIN_KEY_BYTES, 16),
    ):
        if count > maximum or count * min_bytes > left:
            raise_malformed(
                "gguf.container.counts",
                at,
                f"the file declares {count} {kind}, but the limit is {maximum} and {left} bytes are left in the file",
            )
    return version, tensor_count, key_count


def _read_pair(cursor: Cursor, values: dict[str, Value | _Span], types: dict[str, ValueType]) -> None:
    at = cursor.position
    length = cursor.read_u64("the length of a key")
    if not 1 <= length <= gguf.MAX_KEY_BYTES:
        raise_malformed("gguf.key.length", at, f"a key has {length} bytes, allowed are 1 to {gguf.MAX_KEY_BYTES}")
    start = cursor.advance(length, "a key")
    key = _ascii(bytes(cursor.data[start : start + length]))
    if key is None:
        raise_malformed(
            "gguf.key.ascii",
            start,
            f"a key is not printable ASCII: {bytes(cursor.data[start : start + min(length, 60)])!r}",
        )
    if key in types:
        raise_malformed("gguf.key.duplicate", start, f"the key {_shown(key)} occurs twice")
    at = cursor.position
    kind = _value_type(cursor.read_u32(f"the type of {_shown(key)}"), key, at)
    types[key] = kind
    values[key] = _read_array(cursor, key) if kind is ValueType.ARRAY else _read_scalar(cursor, kind, key)


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"{name[:77]!r}..."


def _ascii(data: bytes) -> str | None:
    text = data.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


def _value_type(number: int, key: str, at: int) -> ValueType:
    try:
        return ValueType(number)
    except ValueError:
        raise_malformed(
            "gguf.key.type", at, f"the value of {_shown(key)} has type number {number}, allowed are 0 to 12"
        )


def _read_scalar(cursor: Cursor, kind: ValueType, key: str) -> bool | int | float | str:
    at = cursor.position
    if kind is ValueType.STRING:
        data = cursor.read_string(f"the value of {_shown(key)}")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise_malformed("gguf.key.utf8", at + 8 + error.start, f"the value of {_shown(key)} is not UTF-8")
        if "\0" in text:
            # the engine reads up to the NUL and other programs read all of it, so they would see different texts
            raise_malformed(
                "gguf.key.nul", at + 8 + data.index(0), f"the value of {_shown(key)} contains a NUL character"
            )
        return text
    layout = _SCALARS[kind]
    start = cursor.advance(layout.size, f"the value of {_shown(key)}")
    if kind is ValueType.BOOL and cursor.data[start] > 1:
        raise_malformed("gguf.key.bool", start, f"the bool {_shown(key)} is {cursor.data[start]}, expected 0 or 1")
    value: bool | int | float = layout.unpack_from(cursor.data, start)[0]
    return value


def _read_array(cursor: Cursor, key: str) -> _Span:
    at = cursor.position
    kind = _value_type(cursor.read_u32(f"the element type of {_shown(key)}"), key, at)
    if kind is ValueType.ARRAY:
        raise_malformed(
            "gguf.key.nested-array", at, f"{_shown(key)} is an array of arrays, which no GGUF reader supports"
        )
    count = cursor.read_u64(f"the length of {_shown(key)}")
    if count > gguf.MAX_ITEMS:
        raise_malformed(
            "gguf.key.array-items",
            at + 4,
            f"the array {_shown(key)} has {count} items, allowed are at most {gguf.MAX_ITEMS}",
        )
    start = cursor.position
    if kind is ValueType.STRING:
        left = cursor.size - start
        if count * 8 > left:
            cursor.advance(count * 8, f"the array {_shown(key)}")
        # A vocabulary is followed by one or two arrays with a 4-byte number for each token.
        following_bytes = 4 * count if key.endswith(".tokens") else 0
        cursor.skip_strings(count, f"the array {_shown(key)}", followed_by_bytes=following_bytes)
    else:
        cursor.advance(count * _SCALARS[kind].size, f"the array {_shown(key)}")
        if kind is ValueType.BOOL and (wrong := bytes(cursor.data[start : cursor.position]).lstrip(b"\0\1")):
            raise_malformed(
                "gguf.key.bool",
                cursor.position - len(wrong),
                f"an item of the bool array {_shown(key)} is neither 0 nor 1",
            )
    return _Span(kind, count, start, cursor.position)


def _alignment(values: dict[str, Value | _Span], types: dict[str, ValueType]) -> int:
    key = "general.alignment"
    value = values.get(key, gguf.DEFAULT_ALIGNMENT)
    if types.get(key, ValueType.UINT32) is not ValueType.UINT32 or value not in gguf.ALIGNMENTS:
        shown = value if isinstance(value, int) else "not a number"
        message = f"general.alignment is {shown} ({types[key].name}), expected a UINT32 power of two from 8 to 65,536"
        raise MalformedGguf(message, cure=CURE_OTHER_FILE, rule="gguf.key.alignment", where=key)
    return int(value) if isinstance(value, int) else gguf.DEFAULT_ALIGNMENT


def _read_tensor(cursor: Cursor) -> tuple[int, Tensor]:
    """Read one entry of the tensor table, and return it with the file offset of the entry."""
    at = cursor.position
    length = cursor.read_u64("the length of a tensor's name")
    if not 1 <= length <= gguf.MAX_NAME_BYTES:
        raise_malformed(
            "gguf.tensor.name-length",
            at,
            f"a tensor's name has {length} bytes, allowed are 1 to {gguf.MAX_NAME_BYTES}",
        )
    start = cursor.advance(length, "a tensor's name")
    name = _ascii(bytes(cursor.data[start : start + length]))
    if name is None:
        raise_malformed(
            "gguf.tensor.name-ascii",
            start,
            f"a tensor's name is not printable ASCII: {bytes(cursor.data[start : start + length])!r}",
        )
    count = cursor.read_u32(f"the dimensions of {name!r}")
    if not 1 <= count <= gguf.MAX_DIMENSIONS:
        raise_malformed(
            "gguf.tensor.dimensions",
            cursor.position - 4,
            f"the tensor {name!r} has {count} dimensions, allowed are 1 to 4",
        )
    shape = []
    for _ in range(count):
        dimension = cursor.read_u64(f"a dimension of {name!r}")
        if not 1 <= dimension <= gguf.MAX_DIMENSION:
            raise_malformed(
                "gguf.tensor.dimension",
                cursor.position - 8,
                f"a dimension of {name!r} is {dimension}, allowed are 1 to 2^31",
            )
        shape.append(dimension)
    kind = _tensor_type(cursor.read_u32(f"the type of {name!r}"), name, cursor.position - 4)
    if shape[0] % kind.block_length:
        raise_malformed(
            "gguf.tensor.blocks",
            cursor.position - 4,
            f"a row of {name!r} has {shape[0]} elements, not a multiple of {kind.block_length} ({kind.name})",
        )
    row = Tensor(name, tuple(shape), kind, cursor.read_u64(f"the offset of {name!r}"), 0)
    size_bytes = row.elements // kind.block_length * kind.block_bytes
    return at, Tensor(name, row.shape, kind, row.offset, size_bytes)


def _tensor_type(number: int, name: str, at: int) -> GgmlType:
    if number in gguf.REMOVED_TYPES:
        message = f"the tensor {name!r} has type {gguf.REMOVED_TYPES[number]}, which llama.cpp has removed"
        raise_malformed(
            "gguf.tensor.type-removed", at, message, cure="use a file that was quantized with a current llama.cpp"
        )
    try:
        return GgmlType(number)
    except ValueError:
        raise_malformed("gguf.tensor.type", at, f"the tensor {name!r} has the unknown type number {number}")


def _check_layout(rows: list[tuple[int, Tensor]], *, alignment: int, data_offset: int, size: int) -> tuple[Tensor, ...]:
    """Check that names are unique, and that the data is in order, aligned, without gaps or overlaps, inside the file.
    Returns the tensors.
    """
    names: set[str] = set()
    expected = 0
    for at, tensor in rows:
        if tensor.name in names:
            raise_malformed("gguf.tensor.duplicate", at, f"the tensor {tensor.name!r} occurs twice")
        names.add(tensor.name)
        if tensor.offset % alignment:
            raise_malformed(
                "gguf.tensor.alignment",
                at,
                f"the data of {tensor.name!r} is at offset {tensor.offset}, which is not a multiple of {alignment}",
            )
        if tensor.offset != expected:
            raise_malformed(
                "gguf.tensor.offset",
                at,
                f"the data of {tensor.name!r} is at offset {tensor.offset}, expected {expected}",
            )
        end = tensor.offset + tensor.size_bytes
        if data_offset + end > size:
            raise_malformed(
                "gguf.tensor.past-end",
                at,
                f"the data of {tensor.name!r} ends at byte {data_offset + end}, but the file at byte {size}",
                cure=CURE_DOWNLOAD_AGAIN,
            )
        expected = _round_up(end, alignment)
    return tuple(tensor for _, tensor in rows)
