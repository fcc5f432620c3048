"""Tell whether two models have the same tensors, whatever their metadata, their order and their shards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from paddock.gguf.header import Tensor
from paddock.gguf.reader import read_header
from paddock.gguf.source import FileSource

_CHUNK_BYTES = 8 << 20


def have_same_tensors(paths: Sequence[Path], others: Sequence[Path]) -> bool:
    """Compare two models, each given by its shards: the names, shapes, types and bytes of all tensors.

    Tables that differ end the comparison at once, and data at the first chunk that differs: only equal weights are read
    completely. Raises the errors of reading a header.
    """
    with ExitStack() as stack:
        one, other = (_tensors([stack.enter_context(FileSource(path)) for path in model]) for model in (paths, others))
        if {name: _kind(tensor) for name, (tensor, _, _) in one.items()} != {
            name: _kind(tensor) for name, (tensor, _, _) in other.items()
        }:
            return False
        return all(_same_bytes(one[name], other[name]) for name in one)


_Located = tuple[Tensor, FileSource, int]
"""A tensor, its file, and the offset of its data in it."""


def _tensors(sources: Sequence[FileSource]) -> dict[str, _Located]:
    found: dict[str, _Located] = {}
    for source in sources:
        header = read_header(source)
        for tensor in header.tensors:
            found[tensor.name] = (tensor, source, header.data_offset + tensor.offset)
    return found


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], int, int]:
    return tensor.shape, int(tensor.type), tensor.size_bytes


def _same_bytes(one: _Located, other: _Located) -> bool:
    (tensor, source, start), (_, other_source, other_start) = one, other
    for at in range(0, tensor.size_bytes, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, tensor.size_bytes - at)
        if source.read_at(start + at, length) != other_source.read_at(other_start + at, length):
            return False
    return True
