"""Build GGUF files byte by byte: valid ones, and ones with a single defect.

A `Gguf` is a list of keys and a list of tensors in which every field can be set wrong; `to_bytes` writes it without a
check. `tiny_llama` is a valid model of 26 kB that the real engine loads and generates with (nonsense, but finite):
change it and write it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Self

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_Q8_0, TYPE_Q8_1, TYPE_I32, TYPE_F64 = 0, 1, 2, 8, 9, 26, 28
_BLOCKS = {TYPE_F32: (1, 4), TYPE_F16: (1, 2), TYPE_Q4_0: (32, 18), TYPE_Q8_0: (32, 34), TYPE_Q8_1: (32, 36)}

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def string(value: str | bytes) -> bytes:
    """A GGUF string: its length in bytes as u64, and the bytes."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def array(kind: int, items: Sequence[Any]) -> bytes:
    """The value of an ARRAY key."""
    body = b"".join(map(string, items)) if kind == STRING else struct.pack(f"<{len(items)}{_CODES[kind]}", *items)
    return struct.pack("<IQ", kind, len(items)) + body


@dataclass
class Key:
    """A key-value pair. `value` is a number, a text, or its encoded bytes, which are written unchanged."""

    name: str | bytes
    kind: int
    value: Any

    def to_bytes(self) -> bytes:
        if isinstance(self.value, bytes):
            body = self.value
        elif self.kind == STRING:
            body = string(self.value)
        else:
            body = struct.pack("<" + _CODES[self.kind], self.value)
        return string(self.name) + struct.pack("<I", self.kind) + body


@lru_cache(maxsize=256)  # the tensors of the tiny models, which nearly every test writes
def random_weights(name: str | bytes, shape: tuple[int, ...], kind: int) -> bytes:
    """Small numbers in a tensor's type, the same in every call; ones in a norm of type F32, zeros in rare types."""
    draw = random.Random(repr(name))
    length, _ = _BLOCKS[kind]
    blocks = prod(shape) // length
    if kind == TYPE_F32:
        norm = str(name).endswith("_norm.weight")
        return struct.pack(f"<{blocks}f", *(1.0 if norm else draw.uniform(-0.1, 0.1) for _ in range(blocks)))
    if kind == TYPE_F16:
        return struct.pack(f"<{blocks}e", *(draw.uniform(-0.1, 0.1) for _ in range(blocks)))
    if kind == TYPE_Q8_0:
        rows = (struct.pack("<e", 0.001) + bytes(draw.randrange(256) for _ in range(32)) for _ in range(blocks))
        return b"".join(rows)
    return bytes(blocks * _BLOCKS[kind][1])


@dataclass
class TensorRow:
    """A row of the tensor table.

    Its data is `data`, or small random numbers seeded by the name; `offset` and `dimensions` override the real values.
    """

    name: str | bytes
    shape: tuple[int, ...]
    kind: int = TYPE_F32
    data: bytes | None = None
    offset: int | None = None
    dimensions: int | None = None

    def content(self) -> bytes:
        return random_weights(self.name, self.shape, self.kind) if self.data is None else self.data

    def to_bytes(self, offset: int) -> bytes:
        count = len(self.shape) if self.dimensions is None else self.dimensions
        written_offset = offset if self.offset is None else self.offset
        return string(self.name) + struct.pack(f"<I{len(self.shape)}QIQ", count, *self.shape, self.kind, written_offset)


@dataclass
class Gguf:
    """A GGUF file to write. The counts are those of the lists unless overridden; `tail` follows the last padding."""

    keys: list[Key] = field(default_factory=list)
    tensors: list[TensorRow] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    key_count: int | None = None
    tensor_count: int | None = None
    tail: bytes = b""

    def set(self, name: str | bytes, kind: int, value: Any) -> Self:
        """Set a key, in its position if it exists."""
        new = Key(name, kind, value)
        for index, key in enumerate(self.keys):
            if key.name == name:
                self.keys[index] = new
                return self
        self.keys.append(new)
        return self

    def drop(self, *names: str) -> Self:
        """Remove the keys and tensors of these names."""
        self.keys = [key for key in self.keys if key.name not in names]
        self.tensors = [tensor for tensor in self.tensors if tensor.name not in names]
        return self

    def tensor(self, name: str) -> TensorRow:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def to_bytes(self) -> bytes:
        key_count = len(self.keys) if self.key_count is None else self.key_count
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        table, data = b"", b""
        for tensor in self.tensors:
            table += tensor.to_bytes(len(data))
            content = tensor.content()
            data += content + bytes(-len(content) % self.alignment)
        head = self.magic + struct.pack("<IQQ", self.version, tensor_count, key_count)
        head += b"".join(key.to_bytes() for key in self.keys) + table
        padding = bytes(-len(head) % self.alignment) if self.tensors else b""
        return head + padding + data + self.tail

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())
        return path


def byte_vocabulary() -> list[str]:
    """The smallest vocabulary for any text: three special tokens, the 256 bytes, and the space."""
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]


def tiny_llama(
    *,
    layers: int = 1,
    width: int = 32,
    inner: int = 64,
    heads: int = 2,
    kind: int = TYPE_Q8_0,
    template: str | None = CHATML,
) -> Gguf:
    """A valid Llama. With `kind=TYPE_F32` any width is possible, else multiples of 32."""
    tokens = byte_vocabulary()
    count = len(tokens)
    file = Gguf()
    file.set("general.architecture", STRING, "llama")
    file.set("general.name", STRING, "tiny")
    file.set("general.file_type", U32, {TYPE_F32: 0, TYPE_F16: 1, TYPE_Q8_0: 7}[kind])
    file.set("llama.context_length", U32, 256)
    file.set("llama.embedding_length", U32, width)
    file.set("llama.block_count", U32, layers)
    file.set("llama.feed_forward_length", U32, inner)
    file.set("llama.attention.head_count", U32, heads)
    file.set("llama.attention.head_count_kv", U32, 1)
    file.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    file.set("llama.rope.dimension_count", U32, width // heads)
    file.set("llama.rope.freq_base", F32, 10000.0)
    file.set("llama.vocab_size", U32, count)
    file.set("tokenizer.ggml.model", STRING, "llama")
    file.set("tokenizer.ggml.tokens", ARRAY, array(STRING, tokens))
    file.set("tokenizer.ggml.scores", ARRAY, array(F32, [-float(index) for index in range(count)]))
    file.set("tokenizer.ggml.token_type", ARRAY, array(I32, [2, 3, 3, *([6] * 256), 1]))
    file.set("tokenizer.ggml.bos_token_id", U32, 1)
    file.set("tokenizer.ggml.eos_token_id", U32, 2)
    file.set("tokenizer.ggml.unknown_token_id", U32, 0)
    if template is not None:
        file.set("tokenizer.chat_template", STRING, template)
    head = width // heads
    file.tensors.append(TensorRow("token_embd.weight", (width, count), kind))
    file.tensors.append(TensorRow("output_norm.weight", (width,)))
    for layer in range(layers):
        start = f"blk.{layer}."
        file.tensors += [
            TensorRow(start + "attn_norm.weight", (width,)),
            TensorRow(start + "attn_q.weight", (width, width), kind),
            TensorRow(start + "attn_k.weight", (width, head), kind),
            TensorRow(start + "attn_v.weight", (width, head), kind),
            TensorRow(start + "attn_output.weight", (width, width), kind),
            TensorRow(start + "ffn_norm.weight", (width,)),
            TensorRow(start + "ffn_gate.weight", (width, inner), kind),
            TensorRow(start + "ffn_up.weight", (width, inner), kind),
            TensorRow(start + "ffn_down.weight", (inner, width), kind),
        ]
    return file


def tiny_shards(count: int = 2, **shape: Any) -> list[Gguf]:
    """`tiny_llama` as llama-gguf-split writes it: the metadata in the first shard, and the tensors spread over all."""
    whole = tiny_llama(**shape)
    total = len(whole.tensors)
    step = -(-total // count)
    shards = []
    for number in range(count):
        shard = Gguf(keys=list(whole.keys) if number == 0 else [])
        shard.set("split.no", U16, number)
        shard.set("split.count", U16, count)
        shard.set("split.tensors.count", I32, total)
        shard.tensors = whole.tensors[number * step : (number + 1) * step]
        shards.append(shard)
    return shards
