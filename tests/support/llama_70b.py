"""Write a 70-billion-parameter Llama as a sparse file of 42 GB: a real header and vocabulary, and no tensor data."""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock import settings
from paddock.gguf.header import Array
from paddock.gguf.reader import read_header
from tests.support.gguf import ARRAY, F32, STRING, U32, Gguf, Key, TensorRow
from tests.support.memory import MemorySource
from tests.support.templates import HOW_TO_GET

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, CONTEXT = 80, 8192, 64, 8, 28_672, 131_072
HEAD = WIDTH // HEADS
_F32, _Q4_K, _Q6_K = (0, 1, 4), (12, 256, 144), (14, 256, 210)  # number, weights in a block, bytes of a block


def write_llama_70b(path: Path) -> Path:
    """Write the file. Skips the test if the engine's source package, which has the vocabulary, is not cached."""
    file = Gguf()
    file.set("general.architecture", STRING, "llama").set("general.file_type", U32, 15)
    for name, number in {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": HEAD,
    }.items():
        file.set(f"llama.{name}", U32, number)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5).set("llama.rope.freq_base", F32, 500_000.0)
    tokens = _add_vocabulary(file)
    table, size = b"", 0
    rows = list(_tensors(tokens))
    for name, shape, (kind, weights, block) in rows:
        table += TensorRow(name, shape, kind).to_bytes(size)
        count = 1
        for length in shape:
            count *= length
        size += count // weights * block
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(rows), len(file.keys))
    head += b"".join(key.to_bytes() for key in file.keys) + table
    head += bytes(-len(head) % 32)
    path.write_bytes(head)
    os.truncate(path, len(head) + size)
    return path


def _add_vocabulary(file: Gguf) -> int:
    packages = sorted((settings.load().cache / "paddock" / "engine").glob("*/llama_cpp_python-*.tar.gz"))
    if not packages:
        pytest.skip(HOW_TO_GET)
    with tarfile.open(packages[-1]) as package:
        member = next(member for member in package if member.name.endswith("/models/ggml-vocab-llama-bpe.gguf"))
        source = package.extractfile(member)
        assert source is not None
        data = source.read()
    header = read_header(MemorySource(data))
    for name, value in header.metadata.items():
        if not name.startswith("tokenizer."):
            continue
        if isinstance(value, Array):
            raw = struct.pack("<IQ", int(value.type), value.count) + data[value.start : value.end]
            file.keys.append(Key(name, ARRAY, raw))
        else:
            file.keys.append(Key(name, int(header.types[name]), value))
    tokens = header.array("tokenizer.ggml.tokens")
    assert tokens is not None
    return tokens.count


def _tensors(tokens: int) -> Iterator[tuple[str, tuple[int, ...], tuple[int, int, int]]]:
    yield "token_embd.weight", (WIDTH, tokens), _Q4_K
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        yield f"{at}attn_norm.weight", (WIDTH,), _F32
        yield f"{at}attn_q.weight", (WIDTH, WIDTH), _Q4_K
        yield f"{at}attn_k.weight", (WIDTH, HEAD * KV_HEADS), _Q4_K
        yield f"{at}attn_v.weight", (WIDTH, HEAD * KV_HEADS), _Q6_K
        yield f"{at}attn_output.weight", (WIDTH, WIDTH), _Q4_K
        yield f"{at}ffn_norm.weight", (WIDTH,), _F32
        yield f"{at}ffn_gate.weight", (WIDTH, INNER), _Q4_K
        yield f"{at}ffn_up.weight", (WIDTH, INNER), _Q4_K
        yield f"{at}ffn_down.weight", (INNER, WIDTH), _Q6_K
    yield "output_norm.weight", (WIDTH,), _F32
    yield "output.weight", (WIDTH, tokens), _Q6_K
