"""Published models with recurrent layers (Mamba, RWKV), and hybrids of recurrent, convolution and attention layers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.published_layers import (
    Rows,
    attention_rows,
    expert_rows,
    feed_forward_rows,
    head_keys,
    mamba2_rows,
    norm_rows,
    ssm_keys,
)
from tests.support.published_model import PublishedModel


def recurrent_models() -> Iterator[PublishedModel]:
    width, inner = 2560, 5120

    def mamba(number: int) -> Rows:
        del number
        yield from norm_rows(width, "attn_norm")
        yield "ssm_in.weight", (width, 2 * inner)
        yield "ssm_conv1d.weight", (4, inner)
        yield "ssm_conv1d.bias", (inner,)
        yield "ssm_x.weight", (inner, 160 + 2 * 16)
        yield "ssm_dt.weight", (160, inner)
        yield "ssm_dt.bias", (inner,)
        yield "ssm_a", (16, inner)
        yield "ssm_d", (inner,)
        yield "ssm_out.weight", (inner, width)

    yield PublishedModel("Mamba 2.8B", "mamba", 64, width, 50_280, mamba, ssm_keys(inner, 16, 160), tied=True)

    def mamba2(number: int) -> Rows:
        del number
        yield from norm_rows(width, "attn_norm")
        yield from mamba2_rows(width, inner, 128, 80, 1)

    yield PublishedModel("Mamba 2 2.7B", "mamba2", 64, width, 50_288, mamba2, ssm_keys(inner, 128, 80, 1), tied=True)

    ranks = {"decay": 96, "iclr": 96, "value_residual_mix": 64, "gate": 320}

    def rwkv7(number: int) -> Rows:
        yield from norm_rows(width, "attn_norm", "attn_norm_2", bias=True)
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
        yield from norm_rows(width, "time_mix_ln", bias=True)
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
    yield PublishedModel("RWKV-7 2.9B", "rwkv7", 32, width, 65_536, rwkv7, keys, norm_bias=True, first=first)


def hybrid_models() -> Iterator[PublishedModel]:
    def granite(number: int) -> Rows:
        yield from norm_rows(1536, "attn_norm", "ffn_norm")
        if number in (5, 15, 25, 35):
            yield from attention_rows(1536, 12, 4, 128)
        else:
            yield from mamba2_rows(1536, 3072, 128, 48, 1)
        yield from expert_rows(1536, 512, 64, shared=1024)

    per_layer = [4 if number in (5, 15, 25, 35) else 0 for number in range(40)]
    keys = head_keys(12, per_layer, 128, 512) | ssm_keys(3072, 128, 48, 1)
    keys |= {"expert_count": 64, "expert_used_count": 6, "expert_shared_feed_forward_length": 1024}
    yield PublishedModel("Granite 4.0 H Tiny", "granitehybrid", 40, 1536, 100_352, granite, keys, tied=True)

    attention = (14, 21, 30, 39)
    dense = tuple(range(1, 56, 2))

    def nemotron(number: int) -> Rows:
        yield from norm_rows(4480, "attn_norm")
        if number in attention:
            yield from attention_rows(4480, 40, 8, 128)
        elif number in dense:
            yield from feed_forward_rows(4480, 15_680, gated=False)
        else:
            yield from mamba2_rows(4480, 10_240, 128, 128, 8)

    keys = head_keys(40, [8 if n in attention else 0 for n in range(56)], 128, 0)
    keys["feed_forward_length"] = [15_680 if n in dense and n not in attention else 0 for n in range(56)]
    keys |= ssm_keys(10_240, 128, 128, 8) | {"attention.layer_norm_epsilon": 1e-5}
    yield PublishedModel("Nemotron Nano 9B v2", "nemotron_h", 56, 4480, 131_072, nemotron, keys)

    full = (2, 5, 8, 10, 12, 14)

    def lfm2(number: int) -> Rows:
        yield from norm_rows(2048, "attn_norm", "ffn_norm")
        if number in full:
            yield from attention_rows(2048, 32, 8, 64, head_norms=64)
        else:
            yield "shortconv.conv.weight", (3, 2048)
            yield "shortconv.in_proj.weight", (2048, 3 * 2048)
            yield "shortconv.out_proj.weight", (2048, 2048)
        yield from feed_forward_rows(2048, 8192)

    keys = head_keys(32, [8 if number in full else 0 for number in range(16)], 64, 8192) | {"shortconv.l_cache": 3}
    yield PublishedModel(
        "LFM2 1.2B", "lfm2", 16, 2048, 65_536, lfm2, keys, tied=True, final_norm="token_embd_norm"
    )  # fmt: skip

    def qwen3next(number: int) -> Rows:
        yield from norm_rows(2048, "attn_norm", "post_attention_norm")
        if number % 4 == 3:
            yield from attention_rows(2048, 16, 2, 256, head_norms=256, queries=2)
        else:
            yield "attn_qkv.weight", (2048, 2 * 2048 + 4096)
            yield "attn_gate.weight", (2048, 4096)
            yield "ssm_conv1d.weight", (4, 2 * 2048 + 4096)
            yield "ssm_dt.bias", (32,)
            yield "ssm_a", (32,)
            yield "ssm_ba.weight", (2048, 64)
            yield "ssm_norm.weight", (128,)
            yield "ssm_out.weight", (4096, 2048)
        yield from expert_rows(2048, 512, 512, shared=512)
        yield "ffn_gate_inp_shexp.weight", (2048,)

    keys = head_keys(16, 2, 256, 5120) | ssm_keys(4096, 128, 32, 16)
    keys |= {"rope.dimension_count": 64, "expert_count": 512, "expert_used_count": 10}
    keys |= {"expert_feed_forward_length": 512, "expert_shared_feed_forward_length": 512}
    yield PublishedModel("Qwen3-Next 80B-A3B", "qwen3next", 48, 2048, 151_936, qwen3next, keys)

    def falcon(number: int) -> Rows:
        del number
        yield from norm_rows(3072, "attn_norm")
        yield "ffn_norm", (3072,)
        yield from mamba2_rows(3072, 3072, 256, 24, 1, norm=False)
        yield from attention_rows(3072, 12, 2, 128)
        yield from feed_forward_rows(3072, 12_288)

    keys = head_keys(12, 2, 128, 12_288) | ssm_keys(3072, 256, 24, 1)
    yield PublishedModel("Falcon-H1 7B", "falcon-h1", 44, 3072, 130_048, falcon, keys)
