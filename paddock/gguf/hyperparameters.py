"""Check a model's hyperparameters: required keys are present, with the types and ranges that the engine accepts.

A *suffix* is a metadata key without its architecture prefix (`block_count` in `llama.block_count`). A *per-layer* value
is one number for all layers, or an array with one number for each layer. The limits are those that llama-model.cpp
asserts; violating most of them aborts the engine's process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from paddock.gguf.format import ValueType
from paddock.gguf.header import Array, Header
from paddock.model.finding import Finding, Severity

MAX_LAYERS: Final = 512
MAX_EXPERTS: Final = 1024
ROPE_SCALINGS: Final = frozenset({"none", "linear", "yarn", "longrope"})
STANDARD_DECODERS: Final = frozenset(
    {"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "smollm3", "mistral3", "granite"}
)
"""Architectures with identical decoder layers, whose keys and tensors follow one common scheme."""
_REQUIRED_SUFFIXES: Final = (
    "attention.head_count",
    "feed_forward_length",
    "attention.layer_norm_rms_epsilon",
)
_ROTATES_WHOLE_HEAD: Final = frozenset({"llama", "deci", "falcon", "llama-embed"})
SINGLE_EXPERT_MEANS_DENSE: Final = frozenset({"hunyuan_vl", "hunyuan-dense"})
"""Architectures of which the engine treats 1 expert as none."""
_CURE = "use a file that was converted with a current llama.cpp"


@dataclass(frozen=True, slots=True)
class _Bounds:
    minimum: int
    maximum: int
    required: bool = False
    per_layer: bool = False


_INTEGERS: Final = {
    "context_length": _Bounds(1, 2**31 - 1, required=True),
    "embedding_length": _Bounds(1, 2**24, required=True),
    "block_count": _Bounds(1, MAX_LAYERS, required=True),
    "vocab_size": _Bounds(0, 2**28),
    "feed_forward_length": _Bounds(0, 2**28, per_layer=True),
    "attention.head_count": _Bounds(0, 2**16, per_layer=True),
    "attention.head_count_kv": _Bounds(0, 2**16, per_layer=True),
    "attention.key_length": _Bounds(1, 2**20),
    "attention.value_length": _Bounds(1, 2**20),
    "rope.dimension_count": _Bounds(0, 2**20),
    "expert_count": _Bounds(0, MAX_EXPERTS),
    "expert_used_count": _Bounds(0, MAX_EXPERTS, per_layer=True),
    "expert_group_count": _Bounds(0, MAX_EXPERTS),
    "expert_group_used_count": _Bounds(0, MAX_EXPERTS),
    "nextn_predict_layers": _Bounds(0, MAX_LAYERS),
}
_POSITIVE: Final = frozenset(
    {
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.group_norm_epsilon",
        "rope.freq_base",
        "rope.freq_base_swa",
    }
)
_NOT_NEGATIVE: Final = frozenset({"rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"})
_FLOATS: Final = _POSITIVE | _NOT_NEGATIVE
_MAX_EPSILON: Final = 1.0  # real ones are below 0.001; a large one makes all norms equal
_OPTIONAL: Final = {
    "pooling_type": ValueType.UINT32,
    "embedding_length_out": ValueType.UINT32,
    "leading_dense_block_count": ValueType.UINT32,
    "expert_feed_forward_length": ValueType.UINT32,
    "expert_shared_count": ValueType.UINT32,
    "expert_shared_feed_forward_length": ValueType.UINT32,
    "expert_gating_func": ValueType.UINT32,
    "rope.scaling.original_context_length": ValueType.UINT32,
    "attention.q_lora_rank": ValueType.UINT32,
    "attention.kv_lora_rank": ValueType.UINT32,
    "attention.sliding_window": ValueType.UINT32,
    "ssm.conv_kernel": ValueType.UINT32,
    "ssm.inner_size": ValueType.UINT32,
    "ssm.state_size": ValueType.UINT32,
    "ssm.time_step_rank": ValueType.UINT32,
    "ssm.group_count": ValueType.UINT32,
    "rope.scaling.alpha": ValueType.FLOAT32,
    "rope.scaling.yarn_log_multiplier": ValueType.FLOAT32,
    "attention.scale": ValueType.FLOAT32,
    "attention.clamp_kqv": ValueType.FLOAT32,
    "attention.max_alibi_bias": ValueType.FLOAT32,
    "logit_scale": ValueType.FLOAT32,
    "residual_scale": ValueType.FLOAT32,
    "embedding_scale": ValueType.FLOAT32,
    "attn_logit_softcapping": ValueType.FLOAT32,
    "final_logit_softcapping": ValueType.FLOAT32,
    "expert_weights_scale": ValueType.FLOAT32,
    "expert_weights_norm": ValueType.BOOL,
    "attention.causal": ValueType.BOOL,
    "use_parallel_residual": ValueType.BOOL,
    "rope.scaling.finetuned": ValueType.BOOL,
}
"""Optional keys with any value of this type, or a per-layer array of it. The engine refuses other types."""
_SCALAR_ONLY: Final = frozenset({"embedding_length_out"})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The model's dimensions from its hyperparameters, with one number for each layer where layers can differ.

    A layer without attention has 0 heads. `prediction_layers` is the number of layers, at the end, that are used only
    for multi-token prediction (`nextn_predict_layers`).
    """

    embedding: int
    layers: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    key_length: int
    value_length: int
    experts: int
    prediction_layers: int


def check(header: Header) -> Iterator[Finding]:
    """Check the hyperparameters of `header.architecture`, which must be a string."""
    findings = [
        *_check_standard_decoder(header),
        *_check_integers(header),
        *_check_floats(header),
        *_check_optional(header),
        *_check_rope_scaling(header),
    ]
    yield from findings
    if not any(finding.severity is Severity.REJECT for finding in findings):
        shape = model_shape(header)  # needs hyperparameters that passed the checks above
        yield from _check_heads(header, shape)
        yield from _check_experts(header, shape)


def model_shape(header: Header) -> ModelShape:
    """Return the model's dimensions, with the engine's defaults for missing keys.

    The hyperparameters must have passed `check`.
    """
    layers = _number(header, "block_count")
    embedding = _number(header, "embedding_length")
    heads = _layers(header, "attention.head_count", layers, (0,) * layers)
    head_length = embedding // heads[0] if heads and heads[0] else 0
    return ModelShape(
        embedding=embedding,
        layers=layers,
        heads=heads,
        kv_heads=_layers(header, "attention.head_count_kv", layers, heads),
        feed_forward=_layers(header, "feed_forward_length", layers, (0,) * layers),
        key_length=_number(header, "attention.key_length", head_length),
        value_length=_number(header, "attention.value_length", head_length),
        experts=_number(header, "expert_count"),
        prediction_layers=_number(header, "nextn_predict_layers"),
    )


def _number(header: Header, suffix: str, default: int = 0) -> int:
    value = header.integer(f"{header.architecture}.{suffix}")
    return default if value is None else value


def _layers(header: Header, suffix: str, layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = header.architecture_value(suffix)
    if isinstance(value, Array):
        return tuple(int(number) for number in value.numbers())
    return (value,) * layers if isinstance(value, int) else default


def _reject(header: Header, rule: str, suffix: str, message: str) -> Finding:
    return Finding(rule, Severity.REJECT, message, f"{header.architecture}.{suffix}", _CURE)


def _check_integers(header: Header) -> Iterator[Finding]:
    layers = header.architecture_value("block_count")
    for suffix, bounds in _INTEGERS.items():
        key = f"{header.architecture}.{suffix}"
        value = header.metadata.get(key)
        if value is None:
            if bounds.required:
                yield _reject(header, "gguf.model.key-missing", suffix, f"{key} is missing, but the engine requires it")
        elif isinstance(value, Array) and bounds.per_layer:
            if value.type not in {ValueType.UINT32, ValueType.INT32}:
                message = f"{key} is an array of {value.type.name}, expected UINT32 or INT32"
                yield _reject(header, "gguf.model.key-type", suffix, message)
            elif value.count != layers:
                yield _reject(
                    header,
                    "gguf.model.key-length",
                    suffix,
                    f"{key} has {value.count} items, but the model has {layers} layers",
                )
            elif wrong := [n for n in value.numbers() if not bounds.minimum <= n <= bounds.maximum]:
                message = f"{key} has an item of {wrong[0]}, allowed are {bounds.minimum} to {bounds.maximum}"
                yield _reject(header, "gguf.model.key-range", suffix, message)
        elif header.types[key] is not ValueType.UINT32 or not isinstance(value, int):
            yield _reject(
                header, "gguf.model.key-type", suffix, f"{key} has type {header.types[key].name}, expected UINT32"
            )
        elif not bounds.minimum <= value <= bounds.maximum:
            message = f"{key} is {value}, allowed are {bounds.minimum} to {bounds.maximum}"
            yield _reject(header, "gguf.model.key-range", suffix, message)


def _check_standard_decoder(header: Header) -> Iterator[Finding]:
    if header.architecture not in STANDARD_DECODERS:
        return
    for suffix in _REQUIRED_SUFFIXES:
        value = header.architecture_value(suffix)
        if value is None or value == 0:
            problem = "missing" if value is None else "zero"
            message = f"{header.architecture}.{suffix} is {problem}, but the engine requires it"
            yield _reject(header, "gguf.model.key-missing", suffix, message)


def _check_floats(header: Header) -> Iterator[Finding]:
    start = f"{header.architecture}."
    for key, value in header.metadata.items():
        if not key.startswith(start):
            continue
        suffix = key.removeprefix(start)
        if suffix in _FLOATS:
            if header.types[key] is not ValueType.FLOAT32 or not isinstance(value, float):
                yield _reject(
                    header, "gguf.model.key-type", suffix, f"{key} has type {header.types[key].name}, expected FLOAT32"
                )
                continue
            if value < 0 or (value == 0 and suffix in _POSITIVE):
                expected = "a number above 0" if suffix in _POSITIVE else "0 or more"
                yield _reject(header, "gguf.model.key-range", suffix, f"{key} is {value}, expected {expected}")
            if suffix.endswith("epsilon") and value > _MAX_EPSILON:
                yield _reject(
                    header,
                    "gguf.model.key-range",
                    suffix,
                    f"{key} is {value}, expected at most {_MAX_EPSILON}",
                )
        if isinstance(value, float) and not math.isfinite(value):
            yield _reject(header, "gguf.model.key-finite", suffix, f"{key} is {value}, expected a finite number")


def _check_optional(header: Header) -> Iterator[Finding]:
    for suffix, expected in _OPTIONAL.items():
        kind = header.types.get(f"{header.architecture}.{suffix}", expected)
        if kind is not expected and (kind is not ValueType.ARRAY or suffix in _SCALAR_ONLY):
            message = f"{header.architecture}.{suffix} has type {kind.name}, expected {expected.name}"
            yield _reject(header, "gguf.model.key-type", suffix, message)


def _check_rope_scaling(header: Header) -> Iterator[Finding]:
    value = header.architecture_value("rope.scaling.type")
    if value is not None and value not in ROPE_SCALINGS:
        shown = repr(value[:40]) if isinstance(value, str) else "not a string"
        allowed = ", ".join(sorted(ROPE_SCALINGS))
        message = f"the RoPE scaling type is {shown}, expected one of {allowed}: the engine aborts on others"
        yield _reject(header, "gguf.model.rope-scaling", "rope.scaling.type", message)


def _check_heads(header: Header, shape: ModelShape) -> Iterator[Finding]:
    kv_is_scalar = isinstance(header.architecture_value("attention.head_count_kv"), int)
    for layer, (heads, kv_heads) in enumerate(zip(shape.heads, shape.kv_heads, strict=True)):
        # a per-layer array may set 0 KV heads for single layers: those keep a recurrent state instead
        if heads and ((kv_heads and heads % kv_heads) or (not kv_heads and kv_is_scalar)):
            message = f"layer {layer} has {heads} heads, not a multiple of its {kv_heads} KV heads"
            yield _reject(header, "gguf.model.heads", "attention.head_count_kv", message)
            break
    head_count = header.architecture_value("attention.head_count")
    derived = header.architecture_value("attention.key_length") is None
    if derived and isinstance(head_count, int) and head_count and shape.embedding % head_count:
        message = f"the embedding length {shape.embedding} is not a multiple of the {head_count} heads"
        yield _reject(header, "gguf.model.heads", "attention.head_count", message)
    rotated = header.architecture_value("rope.dimension_count")
    if isinstance(rotated, int) and shape.key_length:
        whole = header.architecture in _ROTATES_WHOLE_HEAD
        if rotated % 2 or rotated > shape.key_length or (whole and rotated != shape.key_length):
            message = f"RoPE rotates {rotated} dimensions, which does not fit the head length {shape.key_length}"
            yield _reject(header, "gguf.model.rope-dimensions", "rope.dimension_count", message)


def _check_experts(header: Header, shape: ModelShape) -> Iterator[Finding]:
    experts, layers = shape.experts, shape.layers
    if experts <= 1 and header.architecture in SINGLE_EXPERT_MEANS_DENSE:
        return
    used = max(_layers(header, "expert_used_count", layers, (0,)))
    if used > experts or (experts and not used):
        message = f"{used} experts per token are used, but the model has {experts}"
        yield _reject(header, "gguf.model.experts", "expert_used_count", message)
    groups = _number(header, "expert_group_count")
    groups_used = _number(header, "expert_group_used_count")
    if groups and groups >= experts:
        message = f"{groups} expert groups are declared, but the model has only {experts} experts"
        yield _reject(header, "gguf.model.experts", "expert_group_count", message)
    elif groups > 1 and (experts % groups or not 0 < groups_used < groups):
        message = f"{groups_used} of {groups} expert groups are used per token, which does not fit {experts} experts"
        yield _reject(header, "gguf.model.experts", "expert_group_used_count", message)
    # in a draft model all layers may be prediction layers
    prediction_layers = shape.prediction_layers
    if prediction_layers > layers or (prediction_layers == layers and header.architecture in STANDARD_DECODERS):
        message = f"{prediction_layers} of {layers} layers are declared as multi-token prediction layers"
        yield _reject(header, "gguf.model.key-range", "nextn_predict_layers", message)
