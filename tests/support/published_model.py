"""The header of a published model in its real shape, without its weights.

The vocabulary has the real number of tokens, with made-up text. Matrices are Q4_K where a row is a multiple of its
block, else Q8_0 or F16. The header and the size of its file are enough for the engine to compute the model's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from paddock.gguf.format import GgmlType
from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, byte_vocabulary
from tests.support.published_layers import Rows

_F32_NAMES = ("_norm", "_norm_2", ".bias", "ssm_a", "ssm_d", "ssm_conv1d", "ffn_gate_inp", "sinks", "time_mix_w0")


@dataclass(frozen=True)
class PublishedModel:
    """A model's shape.

    `keys` are metadata keys without their prefix `<architecture>.`; `layer` yields the tensors of a layer by its
    number.
    """

    name: str
    architecture: str
    layers: int
    width: int
    vocabulary: int
    layer: Callable[[int], Rows]
    keys: dict[str, Any] = field(default_factory=dict)
    tied: bool = False
    norm_bias: bool = False
    final_norm: str = "output_norm"
    first: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def header(self) -> tuple[bytes, int]:
        """The header, padded to the tensor data, and the size of the whole file in bytes."""
        file = Gguf()
        file.set("general.architecture", g.STRING, self.architecture).set("general.file_type", g.U32, 15)
        for key, value in {
            "context_length": 131_072,
            "embedding_length": self.width,
            "block_count": self.layers,
            "attention.layer_norm_rms_epsilon": 1e-5,
            **self.keys,
        }.items():
            _set(file, f"{self.architecture}.{key}", value)
        _add_vocabulary(file, self.vocabulary)
        rows = [("token_embd.weight", (self.width, self.vocabulary)), *self.first, *_norm_rows(self.final_norm, self)]
        if not self.tied:
            rows.append(("output.weight", (self.width, self.vocabulary)))
        for number in range(self.layers):
            rows += [(f"blk.{number}.{name}", shape) for name, shape in self.layer(number)]
        table, size = b"", 0
        for name, shape in rows:
            kind = _type_of(name, shape)
            table += TensorRow(name, shape, int(kind)).to_bytes(size)
            size += -(-prod(shape) // kind.block_length * kind.block_bytes // 32) * 32
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(rows), len(file.keys))
        head += b"".join(key.to_bytes() for key in file.keys) + table
        head += bytes(-len(head) % 32)
        return head, len(head) + size


def _norm_rows(name: str, model: PublishedModel) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.{part}", (model.width,)) for part in ("weight", *(("bias",) if model.norm_bias else ()))]


def _set(file: Gguf, name: str, value: Any) -> None:
    if isinstance(value, list):
        file.set(name, g.ARRAY, g.array(g.BOOL if isinstance(value[0], bool) else g.I32, value))
    else:
        file.set(name, g.BOOL if isinstance(value, bool) else g.F32 if isinstance(value, float) else g.U32, value)


def _add_vocabulary(file: Gguf, count: int) -> None:
    tokens = byte_vocabulary()
    kinds = [2, 3, 3, *([6] * 256), 1]
    tokens += [f"▁{number}" for number in range(count - len(tokens))]
    kinds += [1] * (count - len(kinds))
    file.set("tokenizer.ggml.model", g.STRING, "llama")
    file.set("tokenizer.ggml.tokens", g.ARRAY, g.array(g.STRING, tokens))
    file.set("tokenizer.ggml.scores", g.ARRAY, g.array(g.F32, [0.0] * count))
    file.set("tokenizer.ggml.token_type", g.ARRAY, g.array(g.I32, kinds))
    for name, number in {"bos": 1, "eos": 2, "unknown": 0}.items():
        file.set(f"tokenizer.ggml.{name}_token_id", g.U32, number)


def _type_of(name: str, shape: tuple[int, ...]) -> GgmlType:
    if len(shape) == 1 or any(part in name for part in _F32_NAMES):
        return GgmlType.F32
    for kind in (GgmlType.Q4_K, GgmlType.Q8_0):
        if shape[0] % kind.block_length == 0:
            return kind
    return GgmlType.F16
