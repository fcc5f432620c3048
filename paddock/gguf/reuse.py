"""Find the tensors of a GGUF whose data another file probably has already: same name, shape and type.

Two revisions of a model share most of their tensors, or all of them where only metadata changed. Whether the data is
the same is not known before it was compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddock.gguf.header import Header, Tensor


@dataclass(frozen=True, slots=True)
class ReusableTensor:
    """A tensor of the new file: its data begins at byte `start` of the file, and is `size` bytes long.

    `copies` are where other files have a tensor of the same name, shape and type: (number of the file, byte of the
    file), in the order of the files.
    """

    name: str
    start: int
    size: int
    copies: tuple[tuple[int, int], ...]


def reusable_tensors(new: Header, stored: Sequence[Header]) -> list[ReusableTensor]:
    """The tensors of `new` that at least one of the stored files has, the largest first."""
    copies: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for number, header in enumerate(stored):
        for key, offset in _places(header):
            copies.setdefault(key, []).append((number, offset))
    found = [
        ReusableTensor(tensor.name, new.data_offset + tensor.offset, tensor.size_bytes, tuple(copies[_key(tensor)]))
        for tensor in new.tensors
        if _key(tensor) in copies and tensor.size_bytes
    ]
    return sorted(found, key=lambda tensor: (-tensor.size, tensor.start))


def _places(header: Header) -> Iterator[tuple[tuple[object, ...], int]]:
    for tensor in header.tensors:
        yield _key(tensor), header.data_offset + tensor.offset


def _key(tensor: Tensor) -> tuple[object, ...]:
    return tensor.name, tensor.shape, tensor.type
