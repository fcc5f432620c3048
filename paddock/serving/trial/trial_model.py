"""Write a model of a few megabytes that has another model's vocabulary, and weights that are all zero.

A grammar is compiled against a vocabulary and not against weights, so that a llama-server with this model compiles it
as the served one does. With zero weights every token is equally likely. The file is sparse: its tensor data is a hole.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from paddock.errors import MalformedGguf
from paddock.gguf.format import DEFAULT_ALIGNMENT, MAGIC, SCALARS, GgmlType, ValueType
from paddock.gguf.header import Array, Header, Value
from paddock.gguf.reader import FileSource, read_header
from paddock.gguf.source import CURE_OTHER_FILE

_WIDTH: Final = 8
"""Of embeddings and layers: a rope needs an even number, and the tensors' rows keep their alignment."""
_TOKENS: Final = "tokenizer.ggml.tokens"
_COPIED: Final = ("general.name",)
"""Keys beside `tokenizer.*` that the engine's tokenizer depends on."""


def write_trial_model(source: Path, target: Path) -> int:
    """Write the model with the vocabulary of `source`, or of the split model whose first shard that is.

    Returns the number of tokens. Raises NoSuchFile, NoPermission, NotGguf, MalformedGguf.
    """
    with FileSource(source) as file:
        header = read_header(file)
    vocabulary = header.array(_TOKENS)
    if vocabulary is None:
        raise MalformedGguf(
            f"{source.name} has no vocabulary", cure=CURE_OTHER_FILE, rule="gguf.tokenizer.tokens", where=_TOKENS
        )
    pairs = [*_hyperparameters(), *_copied_pairs(header)]
    table, size = _tensor_table(vocabulary.count)
    content = MAGIC + struct.pack("<IQQ", 3, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    with target.open("wb") as out:
        out.write(content)
        os.truncate(out.fileno(), _aligned(len(content)) + size)
    return vocabulary.count


def _hyperparameters() -> list[bytes]:
    numbers = {
        "context_length": 2**20,
        "embedding_length": _WIDTH,
        "block_count": 1,
        "feed_forward_length": _WIDTH,
        "attention.head_count": 1,
    }
    return [
        _pair("general.architecture", ValueType.STRING, "llama"),
        *(_pair(f"llama.{name}", ValueType.UINT32, number) for name, number in numbers.items()),
        _pair("llama.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
    ]


def _copied_pairs(header: Header) -> list[bytes]:
    return [
        _pair(key, header.types[key], value)
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.") or key in _COPIED
    ]


def _tensor_table(tokens: int) -> tuple[list[bytes], int]:
    """Return the entries of the tensor table, and the size of the tensor data in bytes."""
    square = (_WIDTH, _WIDTH)
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_WIDTH, tokens),
        "output_norm.weight": (_WIDTH,),
        "blk.0.attn_norm.weight": (_WIDTH,),
        "blk.0.ffn_norm.weight": (_WIDTH,),
        **{f"blk.0.{part}.weight": square for part in parts},
    }
    rows, offset = [], 0
    for name, shape in shapes.items():
        rows.append(
            _string(name.encode()) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, int(GgmlType.F32), offset)
        )
        elements = shape[0] * (shape[1] if len(shape) > 1 else 1)
        offset += _aligned(elements * GgmlType.F32.block_bytes)
    return rows, offset


def _pair(key: str, kind: ValueType, value: Value) -> bytes:
    if isinstance(value, Array):
        body = struct.pack("<IQ", value.type, value.count) + value.prefix[value.start : value.end]
    elif isinstance(value, str):
        body = _string(value.encode())
    else:
        body = struct.pack("<" + SCALARS[kind], value)
    return _string(key.encode()) + struct.pack("<I", kind) + body


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
