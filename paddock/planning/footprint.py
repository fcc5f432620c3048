"""Estimate the memory of each layer of a model from its header, without the engine.

The engine's own figures (`paddock.engine.oracle`) are exact. This estimate is used where the engine cannot help: to
distribute layers over GPUs, because the engine reports totals, and for a machine on which no engine runs. The errors
against the engine's figures for published models are listed in `docs/memory.md`.

The *cache* of a layer holds a row of keys and a row of values for each token. Widths are derived from the tensors
rather than from the name of the architecture: the cache of a layer with a key projection is as wide as the projection,
that of latent attention (MLA) as wide as the latent vector and without values, and a recurrent layer has a state of
fixed size for each sequence. The cache of a layer with a sliding *window* holds at most that many tokens. Properties
that cannot be derived from tensors are in the tables below. The rules are those of llama.cpp's `llama_kv_cache`,
`llama_kv_cache_iswa` and `llama_memory_recurrent`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.gguf.format import GgmlType
from paddock.gguf.header import Array, Header, Tensor
from paddock.gguf.hyperparameters import ModelShape, model_shape

_LAYER = re.compile(r"blk\.(\d+)\.(.*)")
_PAD = 256
_F32_BYTES, _F16_BYTES = 4, 2

_WINDOW_EVERY: Final = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone-moe": 4,
    "exaone4": 4,
    "gemma-embedding": 6,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "mellum": 4,
    "olmo2": 4,
    "plamo3": 8,
}
"""Period of the layers: the last one of each period attends to all tokens, the others to the window. A metadata key may
override the period."""
_FULL_FIRST: Final = {"cohere2moe": 4, "laguna": 4, "smallthinker": 4}
"""Architectures of this kind in which the first layer of each period attends to all tokens."""
_WINDOW_DEFAULT: Final = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}
_WINDOW_EVERYWHERE: Final = frozenset({"lfm2"})
_CACHED_LAYERS: Final = {"gemma3n": 20}
"""Number of layers with a cache of their own: later layers use that of an earlier one."""
_WINDOW_FROM_LAYERS: Final = {"exaone4": 64}
"""Minimum number of layers of models with a window: all layers of smaller ones attend to all tokens."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The memory of one layer.

    `key_width` and `value_width` are the elements in the cache for each token, `state_bytes` the state of a recurrent
    layer for each sequence. `windowed`: the cache is limited to the sliding window.
    """

    weights_bytes: int
    key_width: int = 0
    value_width: int = 0
    windowed: bool = False
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of a model by layers.

    `input_bytes` are the weights before the first layer, which stay in host memory, `embedding_bytes` the part of them
    that is the token embedding, and `output_bytes` the weights after the last layer. `tied`: the token embedding is
    also the output matrix. `window` is the sliding window in tokens (0: none), `embedding` the width of an embedding,
    and `vocabulary` the number of tokens.
    """

    layers: tuple[Layer, ...]
    input_bytes: int
    embedding_bytes: int
    output_bytes: int
    tied: bool
    window: int
    embedding: int
    widest: int
    """Elements for each token at the widest step inside a layer."""
    vocabulary: int

    @property
    def weights_bytes(self) -> int:
        return self.input_bytes + self.output_bytes + sum(layer.weights_bytes for layer in self.layers)

    def scaled(self, share: float) -> Footprint:
        """Estimate the same model in another quantization, whose weights take `share` times the memory."""
        return replace(
            self,
            layers=tuple(replace(layer, weights_bytes=round(layer.weights_bytes * share)) for layer in self.layers),
            input_bytes=round(self.input_bytes * share),
            embedding_bytes=round(self.embedding_bytes * share),
            output_bytes=round(self.output_bytes * share),
        )

    @property
    def offloaded_output_bytes(self) -> int:
        """The output weights on a GPU in bytes; for a tied embedding they include a copy of it."""
        return self.output_bytes + (self.embedding_bytes if self.tied else 0)

    def cache_bytes(self, layer: Layer, parameters: Parameters) -> int:
        """The cache and the recurrent state of one layer, in bytes."""
        sequences = parameters.n_seq_max
        tokens = _padded(-(-_padded(parameters.n_ctx) // sequences))
        if layer.windowed and not parameters.swa_full:
            tokens = min(tokens, _padded(self.window + min(parameters.n_ubatch, parameters.n_batch)))
        key, value = GgmlType[parameters.type_k.upper()], GgmlType[parameters.type_v.upper()]
        token_bytes = row_bytes(key, layer.key_width) + row_bytes(value, layer.value_width)
        return sequences * (tokens * token_bytes + layer.state_bytes)

    def estimate(self, parameters: Parameters) -> Memory:
        """Estimate the memory of the whole model."""
        batch = min(parameters.n_ubatch, parameters.n_batch, _padded(parameters.n_ctx))
        return Memory(
            weights_bytes=self.weights_bytes,
            kv_cache_bytes=sum(self.cache_bytes(layer, parameters) for layer in self.layers),
            compute_bytes=self._compute_bytes(batch, parameters),
            output_bytes=parameters.n_seq_max * self.vocabulary * _F32_BYTES,
            source="analytic",
        )

    def _compute_bytes(self, batch: int, parameters: Parameters) -> int:
        """The peak memory of a batch: all logits and two rows of embeddings, or the widest step inside a layer with
        four rows of embeddings and the attention mask in F16."""
        mask = _padded(-(-_padded(parameters.n_ctx) // parameters.n_seq_max)) * _F16_BYTES
        logits = (self.vocabulary + 2 * self.embedding) * _F32_BYTES
        inside = (self.widest + 4 * self.embedding) * _F32_BYTES + mask * any(layer.key_width for layer in self.layers)
        return batch * max(logits, inside)


def row_bytes(kind: GgmlType, width: int) -> int:
    """The size of `width` elements of a ggml type in bytes, rounded up to whole blocks."""
    return -(-width // kind.block_length) * kind.block_bytes


def footprint(header: Header, tensors: Sequence[Tensor] | None = None) -> Footprint:
    """The footprint of an audited model. `tensors` are those of all shards, by default those of `header`."""
    shape = model_shape(header)
    tensors = header.tensors if tensors is None else tensors
    by_layer: dict[int, dict[str, Tensor]] = defaultdict(dict)
    other: dict[str, Tensor] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match:
            by_layer[int(match[1])][match[2]] = tensor
        else:
            other[tensor.name] = tensor
    computed = shape.layers - shape.prediction_layers if shape.prediction_layers < shape.layers else shape.layers
    windows = _windowed(header, computed)
    cached = _CACHED_LAYERS.get(header.architecture or "", computed)
    embedding = other.get("token_embd.weight")
    output = [tensor for name, tensor in other.items() if name.startswith("output")]
    size = sum(tensor.size_bytes for tensor in output)
    return Footprint(
        layers=tuple(
            _layer(header, shape, number, by_layer.get(number, {}), windows[number], cached=number < cached)
            for number in range(computed)
        )
        + (Layer(0),) * (shape.layers - computed),  # layers for multi-token prediction are counted but not loaded
        input_bytes=sum(tensor.size_bytes for tensor in other.values()) - size,
        embedding_bytes=embedding.size_bytes if embedding is not None else 0,
        output_bytes=size,
        tied="output.weight" not in other,
        window=header.integer(f"{header.architecture}.attention.sliding_window")
        or _WINDOW_DEFAULT.get(header.architecture or "", 0),
        embedding=shape.embedding,
        widest=_widest(header, shape, by_layer.values()),
        vocabulary=embedding.shape[1] if embedding is not None and len(embedding.shape) > 1 else 0,
    )


def _layer(
    header: Header, shape: ModelShape, number: int, tensors: dict[str, Tensor], windowed: bool, *, cached: bool
) -> Layer:
    keys, values = _cache_widths(header, shape, number, tensors) if cached else (0, 0)
    return Layer(
        weights_bytes=sum(tensor.size_bytes for tensor in tensors.values()),
        key_width=keys,
        value_width=values,
        windowed=windowed and keys > 0,
        state_bytes=_state_elements(header, shape, number, tensors) * _F32_BYTES,
    )


def _cache_widths(header: Header, shape: ModelShape, number: int, tensors: dict[str, Tensor]) -> tuple[int, int]:
    """(width of keys, width of values) for each token, in elements."""
    if "attn_kv_a_mqa.weight" in tensors and header.architecture_value("attention.key_length_mla") is not None:
        return tensors["attn_kv_a_mqa.weight"].shape[1], 0
    heads = shape.kv_heads[number] or (shape.heads[number] if "attn_kv_a_mqa.weight" in tensors else 0)
    if "attn_k.weight" in tensors and "attn_v.weight" in tensors:
        return tensors["attn_k.weight"].shape[1], tensors["attn_v.weight"].shape[1]
    fused = "attn_qkv.weight" in tensors and not _is_recurrent(tensors)  # delta nets also have a tensor of this name
    if fused or "attn_kv_b.weight" in tensors:
        return heads * shape.key_length, heads * shape.value_length
    return 0, 0


def _is_recurrent(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith(("ssm_", "shortconv.", "time_mix_")) for name in tensors)


def _state_elements(header: Header, shape: ModelShape, number: int, tensors: dict[str, Tensor]) -> int:
    """State of a recurrent layer for each sequence, in elements: the last inputs of its convolution, and its state."""
    if not _is_recurrent(tensors):
        return 0
    head = header.architecture_value("wkv.head_size")
    if isinstance(head, int):
        shifts = header.architecture_value("token_shift_count")
        return shape.embedding * ((shifts if isinstance(shifts, int) else 2) + head)
    if "shortconv.conv.weight" in tensors:
        return shape.embedding * (tensors["shortconv.conv.weight"].shape[0] - 1)
    head = header.architecture_value("kda.head_dim")
    kernel, inner, state, groups = (
        header.integer(f"{header.architecture}.ssm.{name}") or 0
        for name in ("conv_kernel", "inner_size", "state_size", "group_count")
    )
    before = max(kernel - 1, 0)
    if isinstance(head, int):  # Kimi's delta attention
        width = shape.heads[number] * head
        return 3 * (before or 3) * width + head * width
    return before * (inner + 2 * groups * state) + state * inner


def _widest(header: Header, shape: ModelShape, layers: Collection[dict[str, Tensor]]) -> int:
    """Elements for each token that exist at the same time at the widest step inside a layer.

    A gated feed-forward network has the gate, the up projection and their product, for each active expert; attention
    has queries and outputs, each twice.
    """
    heads = max(shape.heads, default=0)
    value = header.integer(f"{header.architecture}.attention.value_length_mla") or shape.value_length
    of_head = 2 * (shape.key_length + value)
    used, inner = (
        max((int(n) for n in value.numbers()), default=0) if isinstance(value, Array) else int(value or 0)
        for value in map(header.architecture_value, ("expert_used_count", "expert_feed_forward_length"))
        if not isinstance(value, str)
    )
    dense = max(shape.feed_forward, default=0)
    rows = [tensors["ffn_up.weight"].shape[1] for tensors in layers if "ffn_up.weight" in tensors]
    fused = max(rows, default=0) > dense
    gated = fused or any("ffn_gate.weight" in tensors for tensors in layers)
    return max(3 * used * (inner or dense), (3 if gated else 1) * dense, heads * of_head)


def _windowed(header: Header, layers: int) -> tuple[bool, ...]:
    """For each layer, whether its attention is limited to the window."""
    name = header.architecture or ""
    window = header.architecture_value("attention.sliding_window") or _WINDOW_DEFAULT.get(name)
    pattern = header.architecture_value("attention.sliding_window_pattern")
    if not window:
        return (False,) * layers
    if isinstance(pattern, Array):
        flags = tuple(bool(flag) for flag in pattern.numbers())
        return (*flags, *(False,) * layers)[:layers]
    if name in _WINDOW_EVERYWHERE:
        return (True,) * layers
    if name in _FULL_FIRST:
        every = pattern if isinstance(pattern, int) else _FULL_FIRST[name]
        return tuple(number % every != 0 for number in range(layers))
    if name not in _WINDOW_EVERY or layers < _WINDOW_FROM_LAYERS.get(name, 0):
        return (False,) * layers
    every = pattern if isinstance(pattern, int) else _WINDOW_EVERY[name]
    return tuple(every == 0 or number % every < every - 1 for number in range(layers))


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD) * _PAD
