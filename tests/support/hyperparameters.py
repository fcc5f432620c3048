"""Broken GGUF files with one defect in one hyperparameter: out of its range, of another type, or not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.support import gguf as g
from tests.support.gguf import tiny_llama

_TOO_MUCH = {
    "context_length": 2**31,
    "embedding_length": 2**24 + 1,
    "block_count": 513,
    "feed_forward_length": 2**28 + 1,
    "attention.head_count": 2**16 + 1,
    "attention.head_count_kv": 2**16 + 1,
    "attention.key_length": 2**20 + 1,
    "attention.value_length": 2**20 + 1,
    "rope.dimension_count": 2**20 + 1,
    "vocab_size": 2**28 + 1,
    "expert_count": 1025,
    "expert_used_count": 1025,
    "expert_group_count": 1025,
    "expert_group_used_count": 1025,
}
_UINT32 = (
    *_TOO_MUCH,
    *("nextn_predict_layers", "leading_dense_block_count", "expert_feed_forward_length", "expert_shared_count"),
    *("expert_gating_func", "rope.scaling.original_context_length", "attention.q_lora_rank"),
    *("attention.kv_lora_rank", "attention.sliding_window", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size"),
    *("ssm.time_step_rank", "ssm.group_count", "pooling_type"),
)
_FLOAT32 = (
    *("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon"),
    *("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"),
    *("attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale", "residual_scale"),
    *("embedding_scale", "attn_logit_softcapping", "final_logit_softcapping", "expert_weights_scale"),
)
_NOT_NEGATIVE = _FLOAT32[:8]
_NOT_ZERO = _FLOAT32[:5]
_BOOL = ("expert_weights_norm", "attention.causal", "use_parallel_residual", "rope.scaling.finetuned")


def _set(key: str, kind: int, value: object) -> Callable[[], bytes]:
    return lambda: tiny_llama(template=None).set(f"llama.{key}", kind, value).to_bytes()


def broken_hyperparameters() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """For each hyperparameter with one defect: the rule that must reject the file, and a function that builds it."""
    broken: dict[str, tuple[str, Callable[[], bytes]]] = {}
    for key, value in _TOO_MUCH.items():
        broken[f"{key}-too-much"] = ("gguf.model.key-range", _set(key, g.U32, value))
    for key in _UINT32:
        broken[f"{key}-float"] = ("gguf.model.key-type", _set(key, g.F32, 1.0))
        broken[f"{key}-text"] = ("gguf.model.key-type", _set(key, g.STRING, "1"))
    for key in _FLOAT32:
        broken[f"{key}-integer"] = ("gguf.model.key-type", _set(key, g.U32, 1))
        broken[f"{key}-nan"] = ("gguf.model.key-finite", _set(key, g.F32, math.nan))
        broken[f"{key}-infinite"] = ("gguf.model.key-finite", _set(key, g.F32, math.inf))
    for key in _NOT_NEGATIVE:
        broken[f"{key}-below-0"] = ("gguf.model.key-range", _set(key, g.F32, -0.5))
    for key in _NOT_ZERO:
        broken[f"{key}-0"] = ("gguf.model.key-range", _set(key, g.F32, 0.0))
    for key in _BOOL:
        broken[f"{key}-number"] = ("gguf.model.key-type", _set(key, g.U8, 1))
    return broken
