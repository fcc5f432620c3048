"""Write a published model in its real size with random weights, to measure a GPU's memory and speed.

Its output is noise, but every value is finite, and it needs the memory and the time of the real model.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from paddock.gguf.format import GgmlType
from paddock.gguf.reader import read_header
from tests.support.memory import MemorySource
from tests.support.published_model import PublishedModel

_CHUNK_BYTES = 16 * 2**20
_SCALES = {GgmlType.Q4_K: ((0, 2), 2e-5), GgmlType.Q8_0: ((0,), 3e-4)}
"""Offsets of the F16 scales in a block, and a scale that keeps the weights below 0.04."""
_PLAIN = {GgmlType.F32: np.float32, GgmlType.F16: np.float16}


def write_full_size(model: PublishedModel, path: Path) -> Path:
    """Write the file. Its matrices must be Q4_K or Q8_0, as those of most of `PUBLISHED_MODELS` are."""
    head, size = model.header()
    header = read_header(MemorySource(head, size))
    chunks = {kind: _chunk(kind) for kind in _SCALES}
    with path.open("wb") as file:
        file.write(head)
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            if tensor.type in chunks:
                _repeat(file, chunks[tensor.type], tensor.size_bytes)
            else:
                value = 1.0 if tensor.name.endswith("norm.weight") else 0.0
                file.write(np.full(tensor.elements, value, _PLAIN[tensor.type]).tobytes())
        file.truncate(size)
    return path


def _chunk(kind: GgmlType) -> bytes:
    """Whole blocks of random bytes, with scales that keep the values small."""
    blocks = _CHUNK_BYTES // kind.block_bytes
    noise = np.random.default_rng(20261126).integers(0, 256, (blocks, kind.block_bytes), dtype=np.uint8)
    offsets, scale = _SCALES[kind]
    for at in offsets:
        noise[:, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return noise.tobytes()


def _repeat(file: BinaryIO, chunk: bytes, size: int) -> None:
    file.writelines(chunk[: size - start] for start in range(0, size, len(chunk)))
