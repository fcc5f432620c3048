"""Valid models of many architectures and of every tensor type, which the real engine loads and generates with.

Each has about 100 kB of small random numbers. An architecture is described by its differences from a Llama: its norms,
the layout of its attention and feed-forward tensors, and the keys that it needs beside the common ones.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field, replace
from typing import Any

from paddock.gguf.format import GgmlType
from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, byte_vocabulary, tiny_llama

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 2, 1, 2
HEAD = WIDTH // HEADS
VOCABULARY = len(byte_vocabulary())
EXPERTS = 4


@dataclass(frozen=True)
class Architecture:
    """The layout of an architecture. `norm_bias`: its norms have a bias; `biases`: the matrices that have one."""

    norm_bias: bool = False
    biases: tuple[str, ...] = ()
    fused: bool = False
    gated: bool = True
    head_norms: int = 0
    before: tuple[str, ...] = ("attn_norm", "ffn_norm")
    after: tuple[str, ...] = ()
    final_norm: bool = True
    tied: bool = False
    inner_rows: int = 1
    experts: bool = False
    layer_norm: bool = False
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()
    keys: dict[str, Any] = field(default_factory=dict)


_LLAMA = Architecture()
_QKV = ("attn_q", "attn_k", "attn_v")
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral3": _LLAMA,
    "internlm2": _LLAMA,
    "xverse": _LLAMA,
    "exaone": _LLAMA,
    "smollm3": replace(_LLAMA, tied=True),
    "qwen2": replace(_LLAMA, biases=_QKV),
    "qwen3": replace(_LLAMA, head_norms=HEAD),
    "gemma": replace(_LLAMA, tied=True, keys={"attention.key_length": HEAD, "attention.value_length": HEAD}),
    "gemma2": replace(
        _LLAMA,
        tied=True,
        after=("post_attention_norm", "post_ffw_norm"),
        keys={"attention.key_length": HEAD, "attention.value_length": HEAD, "attention.sliding_window": 64},
    ),
    "gemma3": replace(
        _LLAMA,
        tied=True,
        head_norms=HEAD,
        after=("post_attention_norm", "post_ffw_norm"),
        keys={"attention.key_length": HEAD, "attention.value_length": HEAD, "attention.sliding_window": 64},
    ),
    "granite": replace(
        _LLAMA,
        keys={"logit_scale": 2.0, "residual_scale": 0.5, "embedding_scale": 2.0, "attention.scale": 0.1},
    ),
    "minicpm": replace(_LLAMA, keys={"logit_scale": 2.0, "residual_scale": 0.5, "embedding_scale": 2.0}),
    "olmo": replace(_LLAMA, before=(), final_norm=False, layer_norm=True, keys={"attention.clamp_kqv": 8.0}),
    "olmo2": replace(_LLAMA, before=(), after=("post_attention_norm", "post_ffw_norm"), head_norms=WIDTH),
    "stablelm": replace(_LLAMA, norm_bias=True, keys={"use_parallel_residual": True}),
    "starcoder2": replace(_LLAMA, norm_bias=True, gated=False, biases=(*_QKV, "attn_output", "ffn_up", "ffn_down")),
    "phi3": replace(_LLAMA, fused=True, gated=False, inner_rows=2),
    "falcon": replace(_LLAMA, norm_bias=True, fused=True, gated=False, before=("attn_norm",)),
    "gptneox": replace(
        _LLAMA,
        norm_bias=True,
        fused=True,
        gated=False,
        biases=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
        keys={"use_parallel_residual": True, "attention.head_count_kv": HEADS},
    ),
    "gpt2": replace(
        _LLAMA,
        norm_bias=True,
        fused=True,
        gated=False,
        biases=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
        extra=(("position_embd.weight", (WIDTH, 256)),),
        keys={"attention.head_count_kv": HEADS},
    ),
    "command-r": replace(_LLAMA, before=("attn_norm",), layer_norm=True, tied=True, keys={"logit_scale": 0.5}),
    "llama-of-experts": replace(_LLAMA, experts=True, keys={"expert_count": EXPERTS, "expert_used_count": 2}),
}


def sound(name: str) -> Gguf:
    """A valid model of an architecture in `ARCHITECTURES`."""
    layout = ARCHITECTURES[name]
    architecture = name.removesuffix("-of-experts")
    file = tiny_llama()
    file.keys = [key for key in file.keys if not str(key.name).startswith("llama.")]
    file.set("general.architecture", g.STRING, architecture).set("general.file_type", g.U32, 0)
    heads_kv = layout.keys.get("attention.head_count_kv", KV_HEADS)
    common: dict[str, Any] = {
        "context_length": 256,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "vocab_size": VOCABULARY,
    }
    if layout.norm_bias or layout.layer_norm:
        common["attention.layer_norm_epsilon"] = 1e-5
    if architecture != "gpt2":  # GPT-2 has a table of positions, and no RoPE
        common["rope.dimension_count"] = HEAD
    for key, value in (common | layout.keys).items():
        of = g.BOOL if isinstance(value, bool) else g.F32 if isinstance(value, float) else g.U32
        file.set(f"{architecture}.{key}", of, value)
    file.tensors = _tensors(layout, heads_kv)
    return file


def _tensors(layout: Architecture, heads_kv: int) -> list[TensorRow]:
    rows = [TensorRow("token_embd.weight", (WIDTH, VOCABULARY))]
    rows += [TensorRow(name, shape) for name, shape in layout.extra]

    def norm(name: str, width: int = WIDTH) -> None:
        rows.append(TensorRow(f"{name}.weight", (width,), data=struct.pack(f"<{width}f", *[1.0] * width)))
        if layout.norm_bias:
            rows.append(TensorRow(f"{name}.bias", (width,)))

    def matrix(layer: str, name: str, columns: int, out: int) -> None:
        rows.append(TensorRow(f"{layer}{name}.weight", (columns, out)))
        if name in layout.biases:
            rows.append(TensorRow(f"{layer}{name}.bias", (out,)))

    if layout.final_norm:
        norm("output_norm")
    if not layout.tied:
        rows.append(TensorRow("output.weight", (WIDTH, VOCABULARY)))
    for number in range(LAYERS):
        at = f"blk.{number}."
        for name in (*layout.before, *layout.after):
            norm(at + name)
        if layout.fused:
            matrix(at, "attn_qkv", WIDTH, WIDTH + 2 * heads_kv * HEAD)
        else:
            for name, out in zip(_QKV, (WIDTH, heads_kv * HEAD, heads_kv * HEAD), strict=True):
                matrix(at, name, WIDTH, out)
        if layout.head_norms:
            norm(f"{at}attn_q_norm", layout.head_norms)
            norm(f"{at}attn_k_norm", heads_kv * HEAD if layout.head_norms == WIDTH else layout.head_norms)
        matrix(at, "attn_output", WIDTH, WIDTH)
        if layout.experts:
            rows.append(TensorRow(f"{at}ffn_gate_inp.weight", (WIDTH, EXPERTS)))
            rows += [
                TensorRow(f"{at}ffn_{name}_exps.weight", (*shape, EXPERTS))
                for name, shape in (("gate", (WIDTH, INNER)), ("up", (WIDTH, INNER)), ("down", (INNER, WIDTH)))
            ]
            continue
        if layout.gated:
            matrix(at, "ffn_gate", WIDTH, INNER)
        matrix(at, "ffn_up", WIDTH, layout.inner_rows * INNER)
        matrix(at, "ffn_down", INNER, WIDTH)
    return rows


_F16_SMALL = struct.pack("<e", 0.001)
# offsets of the scales in a block, from ggml-common.h
_SCALES_AT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "Q1_0", "Q2_0"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), (0,)),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *(
        "IQ1_S",
        "IQ1_M",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ3_XXS",
        "IQ3_S",
        "IQ4_NL",
        "IQ4_XS",
        "TQ1_0",
        "TQ2_0",
        "MXFP4",
    ),
)


def of_type(name: str) -> Gguf:
    """A Llama whose matrices have one tensor type."""
    kind = GgmlType[name]
    file = tiny_llama(width=256, inner=256, heads=4, kind=g.TYPE_F32)
    for row in file.tensors:
        if len(row.shape) == 2 and row.name != "token_embd.weight" and kind is not GgmlType.F32:
            row.data, row.kind = _blocks(kind, row), int(kind)
    return file


def _blocks(kind: GgmlType, row: TensorRow) -> bytes:
    draw = random.Random(f"{kind.name} {row.name!r}")
    elements = row.shape[0] * row.shape[1]
    if kind is GgmlType.F16:
        return struct.pack(f"<{elements}e", *(draw.uniform(-0.1, 0.1) for _ in range(elements)))
    if kind is GgmlType.BF16:
        return b"".join(struct.pack("<f", draw.uniform(-0.1, 0.1))[2:] for _ in range(elements))
    out = bytearray()
    for _ in range(elements // kind.block_length):
        block = bytearray(draw.randbytes(kind.block_bytes))
        for at in _SCALES_AT.get(kind.name, ()):
            block[at : at + 2] = _F16_SMALL
        if kind is GgmlType.MXFP4:
            block[0] = 120  # 2^-7
        elif kind is GgmlType.IQ1_M:  # an F16 of 0.001, split over the top 4 bits of four numbers, lowest first
            (bits,) = struct.unpack("<H", _F16_SMALL)
            for number in range(4):
                block[49 + 2 * number] = block[49 + 2 * number] & 0x0F | (bits >> 4 * number & 0xF) << 4
        out += block
    return bytes(out)
