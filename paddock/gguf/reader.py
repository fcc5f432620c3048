"""Reading a GGUF's header from any source of bytes, in exact integers, and never further than the header.

The first breach of the format raises, with the rule's name and the byte offset. Nothing here judges the model, and no
tensor data is read.
"""

from __future__ import annotations

import struct
from types import MappingProxyType

from paddock.errors import MalformedGguf, NotGguf
from paddock.gguf import format as gguf
from paddock.gguf.format import GgmlType, ValueType
from paddock.gguf.header import Array, Header, Tensor, Value
from paddock.gguf.source import BROKEN, FETCH_AGAIN, ByteSource, Cursor, FileSource, breach

__all__ = ["Array", "ByteSource", "FileSource", "Header", "Tensor", "Value", "read_header"]

_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # length, one character, type, the smallest value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, one character, dimensions, one of them, type, offset
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in gguf.SCALARS.items()}


def read_header(source: ByteSource) -> Header:
    """Read and check the header of a GGUF. Raises NotGguf or MalformedGguf at the first breach; both carry `rule` and
    `where`.
    """
    cursor = Cursor(source)
    version, tensor_count, key_count = _read_counts(cursor)
    spans: dict[str, Value | _Span] = {}
    types: dict[str, ValueType] = {}
    for _ in range(key_count):
        _read_pair(cursor, spans, types)
    alignment = _alignment(spans, types)
    rows = [_read_tensor(cursor) for _ in range(tensor_count)]
    data_offset = _pad(cursor.position, alignment) if rows else cursor.position
    tensors = _place(rows, alignment=alignment, data_offset=data_offset, size=source.size)
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


def _pad(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment


class _Span:
    """An array whose bounds were checked, before the whole prefix is there to read it from."""

    __slots__ = ("count", "end", "start", "type")

    def __init__(self, kind: ValueType, count: int, start: int, end: int) -> None:
        self.type, self.count, self.start, self.end = kind, count, start, end


def _read_magic(cursor: Cursor) -> None:
    cursor.need(min(cursor.size, len(gguf.MAGIC)), "the magic")
    head = bytes(cursor.data[:512])
    if not head:
        raise NotGguf("the file is no GGUF: it is empty", cure=FETCH_AGAIN, rule="gguf.container.magic", where="byte 0")
    if not head.startswith(gguf.MAGIC):
        found = gguf.lookalike(head)
        what = f"it is {found.name}" if found else f"it begins with {head[:4]!r}"
        cure = found.cure if found else FETCH_AGAIN
        raise NotGguf(f"the file is no GGUF: {what}", cure=cure, rule="gguf.container.magic", where="byte 0")


def _read_counts(cursor: Cursor) -> tuple[int, int, int]:
    _read_magic(cursor)
    version = cursor.u32("the version")
    if version not in gguf.VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *gguf.VERSIONS):
            breach(
                "gguf.container.endianness",
                4,
                "the file is big-endian, and the engine reads little-endian",
                cure="use a little-endian file",
            )
        breach(
            "gguf.container.version",
            4,
            f"the format version is {version}, and 2 and 3 are read",
            cure="use a file that was converted anew",
        )
    tensor_count = cursor.u64("the number of tensors")
    key_count = cursor.u64("the number of keys")
    left = cursor.size - cursor.position
    for what, count, most, smallest, at in (
        ("tensors", tensor_count, gguf.MAX_TENSORS, _MIN_TENSOR_BYTES, 8),
        ("keys", key_count, gguf.MAX_KEYS, _MIN_KEY_BYTES, 16),
    ):
        if count > most or count * smallest > left:
            breach(
                "gguf.container.counts",
                at,
                f"the file declares {count} {what}: {most} at most, and {left} bytes are left for them",
            )
    return version, tensor_count, key_count


def _read_pair(cursor: Cursor, values: dict[str, Value | _Span], types: dict[str, ValueType]) -> None:
    at = cursor.position
    length = cursor.u64("the length of a key")
    if not 1 <= length <= gguf.MAX_KEY_BYTES:
        breach("gguf.key.length", at, f"a key has {length} bytes, and 1 to {gguf.MAX_KEY_BYTES} are allowed")
    start = cursor.need(length, "a key")
    key = _ascii(bytes(cursor.data[start : start + length]))
    if key is None:
        breach(
            "gguf.key.ascii",
            start,
            f"a key is not printable ASCII: {bytes(cursor.data[start : start + min(length, 60)])!r}",
        )
    if key in types:
        breach("gguf.key.duplicate", start, f"the key {_shown(key)} is there twice")
    at = cursor.position
    kind = _value_type(cursor.u32(f"the type of {_shown(key)}"), key, at)
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
        breach("gguf.key.type", at, f"the value of {_shown(key)} has type {number}, and 0 to 12 are types")


def _read_scalar(cursor: Cursor, kind: ValueType, key: str) -> bool | int | float | str:
    at = cursor.position
    if kind is ValueType.STRING:
        data = cursor.string(f"the value of {_shown(key)}")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            breach("gguf.key.utf8", at + 8 + error.start, f"the value of {_shown(key)} is not UTF-8")
        if "\0" in text:
            # the engine reads up to the NUL, everybody else the whole: two readers, two texts
            breach("gguf.key.nul", at + 8 + data.index(0), f"the value of {_shown(key)} holds a NUL")
        return text
    form = _SCALARS[kind]
    start = cursor.need(form.size, f"the value of {_shown(key)}")
    if kind is ValueType.BOOL and cursor.data[start] > 1:
        breach("gguf.key.bool", start, f"the bool {_shown(key)} is {cursor.data[start]}, and 0 and 1 are bools")
    value: bool | int | float = form.unpack_from(cursor.data, start)[0]
    return value


def _read_array(cursor: Cursor, key: str) -> _Span:
    at = cursor.position
    kind = _value_type(cursor.u32(f"the element type of {_shown(key)}"), key, at)
    if kind is ValueType.ARRAY:
        breach("gguf.key.nested-array", at, f"{_shown(key)} is an array of arrays, which no reader takes")
    count = cursor.u64(f"the length of {_shown(key)}")
    if count > gguf.MAX_ITEMS:
        breach(
            "gguf.key.array-items",
            at + 4,
            f"the array {_shown(key)} has {count} items, and {gguf.MAX_ITEMS} at most are allowed",
        )
    start = cursor.position
    if kind is ValueType.STRING:
        left = cursor.size - start
        if count * 8 > left:
            cursor.need(count * 8, f"the array {_shown(key)}")
        # A vocabulary is followed by an array with a number for each token, or two.
        follow = 4 * count if key.endswith(".tokens") else 0
        cursor.skip_strings(count, f"the array {_shown(key)}", followed_by_bytes=follow)
    else:
        cursor.need(count * _SCALARS[kind].size, f"the array {_shown(key)}")
        if kind is ValueType.BOOL and (wrong := bytes(cursor.data[start : cursor.position]).lstrip(b"\0\1")):
            breach(
                "gguf.key.bool", cursor.position - len(wrong), f"an item of the bools {_shown(key)} is neither 0 nor 1"
            )
    return _Span(kind, count, start, cursor.position)


def _alignment(values: dict[str, Value | _Span], types: dict[str, ValueType]) -> int:
    key = "general.alignment"
    value = values.get(key, gguf.DEFAULT_ALIGNMENT)
    if types.get(key, ValueType.UINT32) is not ValueType.UINT32 or value not in gguf.ALIGNMENTS:
        shown = value if isinstance(value, int) else "no number"
        message = (
            f"general.alignment is {shown} ({types[key].name}), and a UINT32 power of two from 8 to 65,536 is expected"
        )
        raise MalformedGguf(message, cure=BROKEN, rule="gguf.key.alignment", where=key)
    return int(value) if isinstance(value, int) else gguf.DEFAULT_ALIGNMENT


def _read_tensor(cursor: Cursor) -> tuple[int, Tensor]:
    """One row of the tensor table, with its own place in the file."""
    at = cursor.position
    length = cursor.u64("the length of a tensor's name")
    if not 1 <= length <= gguf.MAX_NAME_BYTES:
        breach(
            "gguf.tensor.name-length",
            at,
            f"a tensor's name has {length} bytes, and 1 to {gguf.MAX_NAME_BYTES} are allowed",
        )
    start = cursor.need(length, "a tensor's name")
    name = _ascii(bytes(cursor.data[start : start + length]))
    if name is None:
        breach(
            "gguf.tensor.name-ascii",
            start,
            f"a tensor's name is not printable ASCII: {bytes(cursor.data[start : start + length])!r}",
        )
    count = cursor.u32(f"the dimensions of {name!r}")
    if not 1 <= count <= gguf.MAX_DIMENSIONS:
        breach(
            "gguf.tensor.dimensions",
            cursor.position - 4,
            f"the tensor {name!r} has {count} dimensions, and 1 to 4 are allowed",
        )
    shape = []
    for _ in range(count):
        dimension = cursor.u64(f"a dimension of {name!r}")
        if not 1 <= dimension <= gguf.MAX_DIMENSION:
            breach(
                "gguf.tensor.dimension",
                cursor.position - 8,
                f"a dimension of {name!r} is {dimension}, and 1 to 2^31 are allowed",
            )
        shape.append(dimension)
    kind = _tensor_type(cursor.u32(f"the type of {name!r}"), name, cursor.position - 4)
    if shape[0] % kind.block_length:
        breach(
            "gguf.tensor.blocks",
            cursor.position - 4,
            f"a row of {name!r} has {shape[0]} elements, no whole blocks of {kind.block_length} ({kind.name})",
        )
    row = Tensor(name, tuple(shape), kind, cursor.u64(f"the offset of {name!r}"), 0)
    size_bytes = row.elements // kind.block_length * kind.block_bytes
    return at, Tensor(name, row.shape, kind, row.offset, size_bytes)


def _tensor_type(number: int, name: str, at: int) -> GgmlType:
    if number in gguf.REMOVED:
        message = f"the tensor {name!r} is of type {gguf.REMOVED[number]}, which llama.cpp removed"
        breach("gguf.tensor.type-removed", at, message, cure="use a file that was quantized anew")
    try:
        return GgmlType(number)
    except ValueError:
        breach("gguf.tensor.type", at, f"the tensor {name!r} is of type {number}, which is no type")


def _place(rows: list[tuple[int, Tensor]], *, alignment: int, data_offset: int, size: int) -> tuple[Tensor, ...]:
    """The rows, once each name is there once, and the data lies in order, aligned, without gap or overlap, inside the
    file.
    """
    names: set[str] = set()
    expected = 0
    for at, tensor in rows:
        if tensor.name in names:
            breach("gguf.tensor.duplicate", at, f"the tensor {tensor.name!r} is there twice")
        names.add(tensor.name)
        if tensor.offset % alignment:
            breach(
                "gguf.tensor.alignment",
                at,
                f"the data of {tensor.name!r} is at {tensor.offset}, which is no multiple of {alignment}",
            )
        if tensor.offset != expected:
            breach(
                "gguf.tensor.offset",
                at,
                f"the data of {tensor.name!r} is at {tensor.offset}, and the one before it ends at {expected}",
            )
        end = tensor.offset + tensor.size_bytes
        if data_offset + end > size:
            breach(
                "gguf.tensor.past-end",
                at,
                f"the data of {tensor.name!r} ends at byte {data_offset + end}, and the file at {size}",
                cure=FETCH_AGAIN,
            )
        expected = _pad(end, alignment)
    return tuple(tensor for _, tensor in rows)
