"""Headers of published models in their real shapes, without a weight: one of each kind of memory that the engine knows.

The shapes are those of the models' own configurations on the Hub. The vocabulary has the real number of tokens, and
made-up words; the matrices are Q4_K where a row is whole blocks of it, Q8_0 or F16 else. A header and the size of its
file are enough for the engine to say what the model takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from paddock.gguf.format import GgmlType
from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, byte_vocabulary

Rows = Iterator[tuple[str, tuple[int, ...]]]
_F32_NAMES = ("_norm", "_norm_2", ".bias", "ssm_a", "ssm_d", "ssm_conv1d", "ffn_gate_inp", "sinks", "time_mix_w0")


@dataclass(frozen=True)
class Published:
    """`keys` follow `<architecture>.`, `layer` gives the tensors of a layer by its number."""

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
        """(the header, the size of the file in bytes)."""
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
        _add_words(file, self.vocabulary)
        rows = [("token_embd.weight", (self.width, self.vocabulary)), *self.first, *_norm(self.final_norm, self)]
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


def _norm(name: str, of: Published) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.{part}", (of.width,)) for part in ("weight", *(("bias",) if of.norm_bias else ()))]


def _set(file: Gguf, name: str, value: Any) -> None:
    if isinstance(value, list):
        file.set(name, g.ARRAY, g.array(g.BOOL if isinstance(value[0], bool) else g.I32, value))
    else:
        file.set(name, g.BOOL if isinstance(value, bool) else g.F32 if isinstance(value, float) else g.U32, value)


def _add_words(file: Gguf, count: int) -> None:
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


def _attention(
    width: int,
    heads: int,
    kv_heads: int,
    head: int,
    *,
    fused: bool = False,
    biases: bool = False,
    head_norms: int = 0,
    output_bias: bool = False,
    queries: int = 1,
) -> Rows:
    q, kv = heads * head, kv_heads * head
    if fused:
        yield "attn_qkv.weight", (width, q + 2 * kv)
    else:
        for name, out in (("q", queries * q), ("k", kv), ("v", kv)):
            yield f"attn_{name}.weight", (width, out)
            if biases:
                yield f"attn_{name}.bias", (out,)
    yield "attn_output.weight", (q, width)
    if output_bias:
        yield "attn_output.bias", (width,)
    if head_norms:
        yield "attn_q_norm.weight", (q if head_norms > head else head,)
        yield "attn_k_norm.weight", (kv if head_norms > head else head,)


def _norms(width: int, *names: str, bias: bool = False) -> Rows:
    for name in names:
        yield f"{name}.weight", (width,)
        if bias:
            yield f"{name}.bias", (width,)


def _feed_forward(width: int, inner: int, *, gated: bool = True, rows: int = 1, biases: bool = False) -> Rows:
    if gated:
        yield "ffn_gate.weight", (width, inner)
    yield "ffn_up.weight", (width, rows * inner)
    yield "ffn_down.weight", (inner, width)
    if biases:
        yield "ffn_up.bias", (inner,)
        yield "ffn_down.bias", (width,)


def _experts(width: int, inner: int, count: int, *, shared: int = 0, biases: bool = False) -> Rows:
    yield "ffn_gate_inp.weight", (width, count)
    yield "ffn_gate_exps.weight", (width, inner, count)
    yield "ffn_up_exps.weight", (width, inner, count)
    yield "ffn_down_exps.weight", (inner, width, count)
    if biases:
        yield "ffn_gate_inp.bias", (count,)
        yield "ffn_gate_exps.bias", (inner, count)
        yield "ffn_up_exps.bias", (inner, count)
        yield "ffn_down_exps.bias", (width, count)
    if shared:
        yield "ffn_gate_shexp.weight", (width, shared)
        yield "ffn_up_shexp.weight", (width, shared)
        yield "ffn_down_shexp.weight", (shared, width)


def _mamba2(width: int, inner: int, state: int, heads: int, groups: int, *, norm: bool = True) -> Rows:
    channels = inner + 2 * groups * state
    yield "ssm_in.weight", (width, inner + channels + heads)
    yield "ssm_conv1d.weight", (4, channels)
    yield "ssm_conv1d.bias", (channels,)
    yield "ssm_dt.bias", (heads,)
    yield "ssm_a", (1, heads)
    yield "ssm_d", (1, heads)
    if norm:
        yield "ssm_norm.weight", (inner // groups, groups)
    yield "ssm_out.weight", (inner, width)


def _ssm_keys(inner: int, state: int, rank: int, groups: int | None = None) -> dict[str, Any]:
    keys = {"ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    return keys if groups is None else {**keys, "ssm.group_count": groups}


def _heads(heads: int, kv_heads: Any, head: int, inner: Any) -> dict[str, Any]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "feed_forward_length": inner,
    }


def _dense(
    name: str,
    architecture: str,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    inner: int,
    vocabulary: int,
    head: int | None = None,
    keys: dict[str, Any] | None = None,
    before: tuple[str, ...] = ("attn_norm", "ffn_norm"),
    after: tuple[str, ...] = (),
    tied: bool = False,
    norm_bias: bool = False,
    gated: bool = True,
    rows: int = 1,
    ff_biases: bool = False,
    mixture: tuple[int, int, int] | None = None,
    **attention: Any,
) -> Published:
    """A decoder of equal layers. `mixture`: (experts, used, width of each)."""
    one = head or width // heads

    def layer(number: int) -> Rows:
        del number
        yield from _norms(width, *before, *after, bias=norm_bias)
        yield from _attention(width, heads, kv_heads, one, **attention)
        if mixture:
            yield from _experts(width, mixture[2], mixture[0])
        else:
            yield from _feed_forward(width, inner, gated=gated, rows=rows, biases=ff_biases)

    more: dict[str, Any] = {}
    if mixture:
        more = {"expert_count": mixture[0], "expert_used_count": mixture[1], "expert_feed_forward_length": mixture[2]}
    return Published(
        name,
        architecture,
        layers,
        width,
        vocabulary,
        layer,
        {**_heads(heads, kv_heads, one, inner), **more, **(keys or {})},
        tied=tied,
        norm_bias=norm_bias,
    )


_AROUND = ("post_attention_norm", "post_ffw_norm")
_QWEN3_EXPERTS = (128, 8, 768)


def _transformers() -> Iterator[Published]:
    yield _dense("Llama 3.1 8B", "llama", layers=32, width=4096, heads=32, kv_heads=8, inner=14_336, vocabulary=128_256)
    yield _dense(
        "Mixtral 8x7B",
        "llama",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=8,
        inner=14_336,
        vocabulary=32_000,
        mixture=(8, 2, 14_336),
    )
    yield _dense(
        "Qwen2.5 7B",
        "qwen2",
        layers=28,
        width=3584,
        heads=28,
        kv_heads=4,
        inner=18_944,
        vocabulary=152_064,
        biases=True,
    )
    yield _dense(
        "Qwen3 0.6B",
        "qwen3",
        layers=28,
        width=1024,
        heads=16,
        kv_heads=8,
        head=128,
        inner=3072,
        vocabulary=151_936,
        tied=True,
        head_norms=128,
    )
    yield _dense(
        "Qwen3 30B-A3B",
        "qwen3moe",
        layers=48,
        width=2048,
        heads=32,
        kv_heads=4,
        head=128,
        inner=6144,
        vocabulary=151_936,
        head_norms=128,
        mixture=_QWEN3_EXPERTS,
    )
    yield _dense(
        "Gemma 2 9B",
        "gemma2",
        layers=42,
        width=3584,
        heads=16,
        kv_heads=8,
        head=256,
        inner=14_336,
        vocabulary=256_000,
        tied=True,
        after=_AROUND,
        keys={"attention.sliding_window": 4096},
    )
    yield _dense(
        "Gemma 3 27B",
        "gemma3",
        layers=62,
        width=5376,
        heads=32,
        kv_heads=16,
        head=128,
        inner=21_504,
        vocabulary=262_208,
        tied=True,
        after=_AROUND,
        head_norms=128,
        keys={"attention.sliding_window": 1024},
    )
    yield _dense(
        "Phi-3 mini",
        "phi3",
        layers=32,
        width=3072,
        heads=32,
        kv_heads=32,
        inner=8192,
        vocabulary=32_064,
        fused=True,
        gated=False,
        rows=2,
    )
    yield _dense(
        "Command R7B",
        "cohere2",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=8,
        inner=14_336,
        vocabulary=256_000,
        tied=True,
        before=("attn_norm",),
        keys={"attention.sliding_window": 4096, "attention.layer_norm_epsilon": 1e-5, "logit_scale": 0.25},
    )
    yield _dense(
        "StarCoder2 7B",
        "starcoder2",
        layers=32,
        width=4608,
        heads=36,
        kv_heads=4,
        inner=18_432,
        vocabulary=49_152,
        norm_bias=True,
        biases=True,
        output_bias=True,
        gated=False,
        ff_biases=True,
        keys={"attention.layer_norm_epsilon": 1e-5},
    )
    yield _dense(
        "OLMo 2 7B",
        "olmo2",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        inner=11_008,
        vocabulary=100_352,
        before=(),
        after=_AROUND,
        head_norms=4096,
    )
    yield _dense(
        "GLM-4 9B",
        "glm4",
        layers=40,
        width=4096,
        heads=32,
        kv_heads=2,
        inner=13_696,
        vocabulary=151_552,
        after=_AROUND,
        gated=False,
        rows=2,
    )


def _gpt_oss() -> Published:
    width = 2880

    def layer(number: int) -> Rows:
        del number
        yield from _norms(width, "attn_norm", "post_attention_norm")
        yield from _attention(width, 64, 8, 64, biases=True, output_bias=True)
        yield "attn_sinks.weight", (64,)
        yield from _experts(width, 2880, 32, biases=True)

    keys = _heads(64, 8, 64, 2880) | {
        "expert_count": 32,
        "expert_used_count": 4,
        "expert_feed_forward_length": 2880,
        "attention.sliding_window": 128,
    }
    return Published("gpt-oss 20B", "gpt-oss", 24, width, 201_088, layer, keys)


def _deepseek(
    name: str, *, layers: int, width: int, heads: int, queries: int, inner: int, dense: int, experts: int, expert: int,
    used: int, shared: int, vocabulary: int,
) -> Published:  # fmt: skip
    latent, rope, nope, value = 512, 64, 128, 128

    def layer(number: int) -> Rows:
        yield from _norms(width, "attn_norm", "ffn_norm")
        yield "attn_kv_a_norm.weight", (latent,)
        if queries:
            yield "attn_q_a_norm.weight", (queries,)
            yield "attn_q_a.weight", (width, queries)
            yield "attn_q_b.weight", (queries, heads * (nope + rope))
        else:
            yield "attn_q.weight", (width, heads * (nope + rope))
        yield "attn_kv_a_mqa.weight", (width, latent + rope)
        yield "attn_k_b.weight", (nope, latent, heads)
        yield "attn_v_b.weight", (latent, value, heads)
        yield "attn_output.weight", (heads * value, width)
        if number < dense:
            yield from _feed_forward(width, inner)
        else:
            yield from _experts(width, expert, experts, shared=shared * expert)

    keys = _heads(heads, 1, latent + rope, inner) | {
        "attention.value_length": latent,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": value,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope,
        "leading_dense_block_count": dense,
        "expert_count": experts,
        "expert_used_count": used,
        "expert_shared_count": shared,
        "expert_feed_forward_length": expert,
        "expert_weights_scale": 1.0,
    }
    if queries:
        keys["attention.q_lora_rank"] = queries
    return Published(name, "deepseek2", layers, width, vocabulary, layer, keys)


def _recurrent() -> Iterator[Published]:
    width, inner = 2560, 5120

    def mamba(number: int) -> Rows:
        del number
        yield from _norms(width, "attn_norm")
        yield "ssm_in.weight", (width, 2 * inner)
        yield "ssm_conv1d.weight", (4, inner)
        yield "ssm_conv1d.bias", (inner,)
        yield "ssm_x.weight", (inner, 160 + 2 * 16)
        yield "ssm_dt.weight", (160, inner)
        yield "ssm_dt.bias", (inner,)
        yield "ssm_a", (16, inner)
        yield "ssm_d", (inner,)
        yield "ssm_out.weight", (inner, width)

    yield Published("Mamba 2.8B", "mamba", 64, width, 50_280, mamba, _ssm_keys(inner, 16, 160), tied=True)

    def mamba2(number: int) -> Rows:
        del number
        yield from _norms(width, "attn_norm")
        yield from _mamba2(width, inner, 128, 80, 1)

    yield Published("Mamba 2 2.7B", "mamba2", 64, width, 50_288, mamba2, _ssm_keys(inner, 128, 80, 1), tied=True)

    ranks = {"decay": 96, "iclr": 96, "value_residual_mix": 64, "gate": 320}

    def rwkv7(number: int) -> Rows:
        yield from _norms(width, "attn_norm", "attn_norm_2", bias=True)
        for name, rank in (
            ("w", ranks["decay"]),
            ("a", ranks["iclr"]),
            ("v", ranks["iclr"] if number == 0 else ranks["value_residual_mix"]),
        ):
            yield f"time_mix_{name}0.weight", (width,)
            yield f"time_mix_{name}1.weight", (width, rank)
            yield f"time_mix_{name}2.weight", (rank, width)
        yield "time_mix_g1.weight", (width, ranks["gate"])
        yield "time_mix_g2.weight", (ranks["gate"], width)
        yield "time_mix_lerp_fused.weight", (width, 1, 1, 6)
        for name in ("k_k", "k_a", "r_k"):
            yield f"time_mix_{name}.weight", (width,)
        for name in ("key", "value", "receptance", "output"):
            yield f"time_mix_{name}.weight", (width, width)
        yield from _norms(width, "time_mix_ln", bias=True)
        yield "channel_mix_lerp_k.weight", (width, 1, 1)
        yield "channel_mix_key.weight", (width, 10_240)
        yield "channel_mix_value.weight", (10_240, width)

    keys = {f"attention.{name}_lora_rank": rank for name, rank in ranks.items()} | {
        "attention.layer_norm_epsilon": 1e-5,
        "attention.head_count": 0,
        "feed_forward_length": 10_240,
        "wkv.head_size": 64,
    }
    first = (("token_embd_norm.weight", (width,)), ("token_embd_norm.bias", (width,)))
    yield Published("RWKV-7 2.9B", "rwkv7", 32, width, 65_536, rwkv7, keys, norm_bias=True, first=first)


def _hybrids() -> Iterator[Published]:
    def granite(number: int) -> Rows:
        yield from _norms(1536, "attn_norm", "ffn_norm")
        if number in (5, 15, 25, 35):
            yield from _attention(1536, 12, 4, 128)
        else:
            yield from _mamba2(1536, 3072, 128, 48, 1)
        yield from _experts(1536, 512, 64, shared=1024)

    per_layer = [4 if number in (5, 15, 25, 35) else 0 for number in range(40)]
    keys = _heads(12, per_layer, 128, 512) | _ssm_keys(3072, 128, 48, 1)
    keys |= {"expert_count": 64, "expert_used_count": 6, "expert_shared_feed_forward_length": 1024}
    yield Published("Granite 4.0 H Tiny", "granitehybrid", 40, 1536, 100_352, granite, keys, tied=True)

    attention = (14, 21, 30, 39)
    dense = tuple(range(1, 56, 2))

    def nemotron(number: int) -> Rows:
        yield from _norms(4480, "attn_norm")
        if number in attention:
            yield from _attention(4480, 40, 8, 128)
        elif number in dense:
            yield from _feed_forward(4480, 15_680, gated=False)
        else:
            yield from _mamba2(4480, 10_240, 128, 128, 8)

    keys = _heads(40, [8 if n in attention else 0 for n in range(56)], 128, 0)
    keys["feed_forward_length"] = [15_680 if n in dense and n not in attention else 0 for n in range(56)]
    keys |= _ssm_keys(10_240, 128, 128, 8) | {"attention.layer_norm_epsilon": 1e-5}
    yield Published("Nemotron Nano 9B v2", "nemotron_h", 56, 4480, 131_072, nemotron, keys)

    full = (2, 5, 8, 10, 12, 14)

    def lfm2(number: int) -> Rows:
        yield from _norms(2048, "attn_norm", "ffn_norm")
        if number in full:
            yield from _attention(2048, 32, 8, 64, head_norms=64)
        else:
            yield "shortconv.conv.weight", (3, 2048)
            yield "shortconv.in_proj.weight", (2048, 3 * 2048)
            yield "shortconv.out_proj.weight", (2048, 2048)
        yield from _feed_forward(2048, 8192)

    keys = _heads(32, [8 if number in full else 0 for number in range(16)], 64, 8192) | {"shortconv.l_cache": 3}
    yield Published(
        "LFM2 1.2B", "lfm2", 16, 2048, 65_536, lfm2, keys, tied=True, final_norm="token_embd_norm"
    )  # fmt: skip

    def qwen3next(number: int) -> Rows:
        yield from _norms(2048, "attn_norm", "post_attention_norm")
        if number % 4 == 3:
            yield from _attention(2048, 16, 2, 256, head_norms=256, queries=2)
        else:
            yield "attn_qkv.weight", (2048, 2 * 2048 + 4096)
            yield "attn_gate.weight", (2048, 4096)
            yield "ssm_conv1d.weight", (4, 2 * 2048 + 4096)
            yield "ssm_dt.bias", (32,)
            yield "ssm_a", (32,)
            yield "ssm_ba.weight", (2048, 64)
            yield "ssm_norm.weight", (128,)
            yield "ssm_out.weight", (4096, 2048)
        yield from _experts(2048, 512, 512, shared=512)
        yield "ffn_gate_inp_shexp.weight", (2048,)

    keys = _heads(16, 2, 256, 5120) | _ssm_keys(4096, 128, 32, 16)
    keys |= {"rope.dimension_count": 64, "expert_count": 512, "expert_used_count": 10}
    keys |= {"expert_feed_forward_length": 512, "expert_shared_feed_forward_length": 512}
    yield Published("Qwen3-Next 80B-A3B", "qwen3next", 48, 2048, 151_936, qwen3next, keys)

    def falcon(number: int) -> Rows:
        del number
        yield from _norms(3072, "attn_norm")
        yield "ffn_norm", (3072,)
        yield from _mamba2(3072, 3072, 256, 24, 1, norm=False)
        yield from _attention(3072, 12, 2, 128)
        yield from _feed_forward(3072, 12_288)

    keys = _heads(12, 2, 128, 12_288) | _ssm_keys(3072, 256, 24, 1)
    yield Published("Falcon-H1 7B", "falcon-h1", 44, 3072, 130_048, falcon, keys)


PUBLISHED: tuple[Published, ...] = (
    *_transformers(),
    _gpt_oss(),
    _deepseek(
        "DeepSeek V2 Lite", layers=27, width=2048, heads=16, queries=0, inner=10_944, dense=1, experts=64, expert=1408,
        used=6, shared=2, vocabulary=102_400,
    ),
    _deepseek(
        "DeepSeek V3", layers=61, width=7168, heads=128, queries=1536, inner=18_432, dense=3, experts=256, expert=2048,
        used=8, shared=1, vocabulary=129_280,
    ),
    *_recurrent(),
    *_hybrids(),
)  # fmt: skip
