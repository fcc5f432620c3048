"""Tensor names and shapes of the layers of published models, and the metadata keys that go with them.

`Rows` yields `(name, shape)`; a shape is in GGUF's order, the row length first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Rows = Iterator[tuple[str, tuple[int, ...]]]


def attention_rows(
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


def norm_rows(width: int, *names: str, bias: bool = False) -> Rows:
    for name in names:
        yield f"{name}.weight", (width,)
        if bias:
            yield f"{name}.bias", (width,)


def feed_forward_rows(width: int, inner: int, *, gated: bool = True, rows: int = 1, biases: bool = False) -> Rows:
    if gated:
        yield "ffn_gate.weight", (width, inner)
    yield "ffn_up.weight", (width, rows * inner)
    yield "ffn_down.weight", (inner, width)
    if biases:
        yield "ffn_up.bias", (inner,)
        yield "ffn_down.bias", (width,)


def expert_rows(width: int, inner: int, count: int, *, shared: int = 0, biases: bool = False) -> Rows:
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


def mamba2_rows(width: int, inner: int, state: int, heads: int, groups: int, *, norm: bool = True) -> Rows:
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


def ssm_keys(inner: int, state: int, rank: int, groups: int | None = None) -> dict[str, Any]:
    keys = {"ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    return keys if groups is None else {**keys, "ssm.group_count": groups}


def head_keys(heads: int, kv_heads: Any, head: int, inner: Any) -> dict[str, Any]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "feed_forward_length": inner,
    }
