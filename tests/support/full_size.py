"""A published model in its real size, with weights that mean nothing: what a GPU's memory and speed are measured with.

Its words are noise, but every value is finite, and it takes the memory and the time of the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from paddock.gguf.format import GgmlType
from paddock.gguf.reader import read_header
from tests.support.memory import Memory
from tests.support.published import Published

_CHUNK_BYTES = 16 * 2**20
_SCALES = {GgmlType.Q4_K: ((0, 2), 2e-5), GgmlType.Q8_0: ((0,), 3e-4)}
"""Where the scales in F16 lie in a block, and a value that leaves the weights below 0.04."""
_PLAIN = {GgmlType.F32: np.float32, GgmlType.F16: np.float16}


def write_full_size(model: Published, path: Path) -> Path:
    """Write all of it. The matrices must be Q4_K or Q8_0, as those of most of `PUBLISHED` are."""
    head, size = model.header()
    header = read_header(Memory(head, size))
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
    """Whole blocks of noise, with scales that keep the values small."""
    blocks = _CHUNK_BYTES // kind.block_bytes
    noise = np.random.default_rng(20261126).integers(0, 256, (blocks, kind.block_bytes), dtype=np.uint8)
    places, scale = _SCALES[kind]
    for at in places:
        noise[:, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return noise.tobytes()


def _repeat(file: BinaryIO, chunk: bytes, size: int) -> None:
    file.writelines(chunk[: size - start] for start in range(0, size, len(chunk)))
