"""A Llama of 1.1 GB that costs the engine little: a mixture of 128 experts, of which two compute a token."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np

from tests.support.gguf import TYPE_F32, TYPE_Q8_0, U32, Gguf, TensorRow, tiny_llama

WIDTH, INNER, EXPERTS, LAYERS = 256, 512, 128, 20
_BLOCK_WEIGHTS = 32
_BLOCK = np.dtype([("scale", "<f2"), ("quants", "i1", _BLOCK_WEIGHTS)])


@dataclass(frozen=True)
class LargeModel:
    """A written model: where its data begins, and the bytes of each tensor by name."""

    path: Path
    header_bytes: int
    tensor_bytes: dict[str, int]


def write_large_model(path: Path, *, changed: Collection[str] = ()) -> LargeModel:
    """Write the model; the tensors named in `changed` have other data."""
    file = _large_llama()
    sizes = {str(row.name): _size(row) for row in file.tensors}
    table, offset = b"", 0
    for row in file.tensors:
        table += row.to_bytes(offset)
        offset += -(-sizes[str(row.name)] // file.alignment) * file.alignment
    head = file.magic + struct.pack("<IQQ", file.version, len(file.tensors), len(file.keys))
    head += b"".join(key.to_bytes() for key in file.keys) + table
    head += bytes(-len(head) % file.alignment)
    with path.open("wb") as target:
        target.write(head)
        for row in file.tensors:
            content = _content(row, seed=2 if row.name in changed else 1)
            target.write(content + bytes(-len(content) % file.alignment))
    return LargeModel(path, len(head), sizes)


def _large_llama() -> Gguf:
    file = tiny_llama(layers=LAYERS, width=WIDTH, inner=INNER, heads=4)
    file.set("llama.context_length", U32, 1024)
    file.set("llama.expert_count", U32, EXPERTS).set("llama.expert_used_count", U32, 2)
    file.drop(*(f"blk.{layer}.ffn_{part}.weight" for layer in range(LAYERS) for part in ("gate", "up", "down")))
    for layer in range(LAYERS):
        file.tensors += _experts(f"blk.{layer}.")
    return file


def _experts(start: str) -> Iterator[TensorRow]:
    yield TensorRow(f"{start}ffn_gate_inp.weight", (WIDTH, EXPERTS))
    yield TensorRow(f"{start}ffn_gate_exps.weight", (WIDTH, INNER, EXPERTS), TYPE_Q8_0)
    yield TensorRow(f"{start}ffn_up_exps.weight", (WIDTH, INNER, EXPERTS), TYPE_Q8_0)
    yield TensorRow(f"{start}ffn_down_exps.weight", (INNER, WIDTH, EXPERTS), TYPE_Q8_0)


def _size(row: TensorRow) -> int:
    count = prod(row.shape)
    return count * 4 if row.kind == TYPE_F32 else count // _BLOCK_WEIGHTS * _BLOCK.itemsize


def _content(row: TensorRow, *, seed: int) -> bytes:
    if len(row.shape) == 1:
        return row.content()
    draw = np.random.default_rng([seed, crc32(str(row.name).encode())])
    if row.kind == TYPE_F32:
        return draw.uniform(-0.1, 0.1, prod(row.shape)).astype("<f4").tobytes()
    blocks = np.zeros(prod(row.shape) // _BLOCK_WEIGHTS, _BLOCK)
    blocks["scale"] = 0.001
    blocks["quants"] = draw.integers(-127, 128, (len(blocks), _BLOCK_WEIGHTS), dtype=np.int8)
    return blocks.tobytes()
