"""Published models in their real shapes: at least one for each kind of memory that the engine has.

The shapes are those of the models' configurations on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.published_layers import (
    Rows,
    attention_rows,
    expert_rows,
    feed_forward_rows,
    head_keys,
    norm_rows,
)
from tests.support.published_model import PublishedModel
from tests.support.published_recurrent import hybrid_models, recurrent_models


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
) -> PublishedModel:
    """A decoder with identical layers. `mixture`: (experts, experts used for a token, width of each)."""
    one = head or width // heads

    def layer(number: int) -> Rows:
        del number
        yield from norm_rows(width, *before, *after, bias=norm_bias)
        yield from attention_rows(width, heads, kv_heads, one, **attention)
        if mixture:
            yield from expert_rows(width, mixture[2], mixture[0])
        else:
            yield from feed_forward_rows(width, inner, gated=gated, rows=rows, biases=ff_biases)

    more: dict[str, Any] = {}
    if mixture:
        more = {"expert_count": mixture[0], "expert_used_count": mixture[1], "expert_feed_forward_length": mixture[2]}
    return PublishedModel(
        name,
        architecture,
        layers,
        width,
        vocabulary,
        layer,
        {**head_keys(heads, kv_heads, one, inner), **more, **(keys or {})},
        tied=tied,
        norm_bias=norm_bias,
    )


_POST_NORMS = ("post_attention_norm", "post_ffw_norm")
_QWEN3_EXPERTS = (128, 8, 768)


def _transformers() -> Iterator[PublishedModel]:
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
        after=_POST_NORMS,
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
        after=_POST_NORMS,
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
        after=_POST_NORMS,
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
        after=_POST_NORMS,
        gated=False,
        rows=2,
    )


def _gpt_oss() -> PublishedModel:
    width = 2880

    def layer(number: int) -> Rows:
        del number
        yield from norm_rows(width, "attn_norm", "post_attention_norm")
        yield from attention_rows(width, 64, 8, 64, biases=True, output_bias=True)
        yield "attn_sinks.weight", (64,)
        yield from expert_rows(width, 2880, 32, biases=True)

    keys = head_keys(64, 8, 64, 2880) | {
        "expert_count": 32,
        "expert_used_count": 4,
        "expert_feed_forward_length": 2880,
        "attention.sliding_window": 128,
    }
    return PublishedModel("gpt-oss 20B", "gpt-oss", 24, width, 201_088, layer, keys)


def _deepseek(
    name: str, *, layers: int, width: int, heads: int, queries: int, inner: int, dense: int, experts: int, expert: int,
    used: int, shared: int, vocabulary: int,
) -> PublishedModel:  # fmt: skip
    latent, rope, nope, value = 512, 64, 128, 128

    def layer(number: int) -> Rows:
        yield from norm_rows(width, "attn_norm", "ffn_norm")
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
            yield from feed_forward_rows(width, inner)
        else:
            yield from expert_rows(width, expert, experts, shared=shared * expert)

    keys = head_keys(heads, 1, latent + rope, inner) | {
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
    return PublishedModel(name, "deepseek2", layers, width, vocabulary, layer, keys)


PUBLISHED_MODELS: tuple[PublishedModel, ...] = (
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
    *recurrent_models(),
    *hybrid_models(),
)  # fmt: skip
