"""What each layer of a model takes in memory, computed from its header: the analytic estimate.

The engine's own figures (`engine.oracle`) are the truth. This serves where it cannot: to share the layers out among
GPUs, since the engine says sums, and for a machine on which no engine runs. How far it is off is measured against the
engine on published models, and stands in `docs/memory.md`.

A layer's *cache* is what it keeps of each token: keys and values, one row each. What differs between architectures is
read off the tensors rather than the names of the architectures: a layer with a key projection has a cache as wide as
that, a latent one (MLA) the width of its latent and no values, a recurrent one a state of a fixed size for each
sequence. A layer with a *window* keeps no more tokens than that. The exceptions, which no tensor tells, are three
tables. The rules are those of llama.cpp's `llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent`.
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
"""Of so many layers the last one sees all tokens, and the others the window. A key of the file may say otherwise."""
_FULL_FIRST: Final = {"cohere2moe": 4, "laguna": 4, "smallthinker": 4}
"""As above, with the first one of so many."""
_WINDOW_DEFAULT: Final = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}
_WINDOW_EVERYWHERE: Final = frozenset({"lfm2"})
_CACHED_LAYERS: Final = {"gemma3n": 20}
"""Layers from this one on use the cache of an earlier layer, and have none."""
_WINDOW_FROM_LAYERS: Final = {"exaone4": 64}
"""A smaller model of these sees all tokens everywhere."""


@dataclass(frozen=True, slots=True)
class Layer:
    """`key_width` and `value_width` are the elements that the cache keeps of a token, `state_bytes` what a recurrent
    layer keeps of a sequence."""

    weights_bytes: int
    key_width: int = 0
    value_width: int = 0
    windowed: bool = False
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """A model by its layers. `input_bytes` are the weights before the first layer, which stay in the host's memory,
    `embedding_bytes` those of them that are the token embedding, `output_bytes` those behind the last layer; `tied`
    says that the embedding is the output matrix too."""

    layers: tuple[Layer, ...]
    input_bytes: int
    embedding_bytes: int
    output_bytes: int
    tied: bool
    window: int
    embedding: int
    widest: int
    """Elements of a token at the widest step inside a layer."""
    vocabulary: int

    @property
    def weights_bytes(self) -> int:
        return self.input_bytes + self.output_bytes + sum(layer.weights_bytes for layer in self.layers)

    def scaled(self, share: float) -> Footprint:
        """The same model in another quantization, of `share` times the weights."""
        return replace(
            self,
            layers=tuple(replace(one, weights_bytes=round(one.weights_bytes * share)) for one in self.layers),
            input_bytes=round(self.input_bytes * share),
            embedding_bytes=round(self.embedding_bytes * share),
            output_bytes=round(self.output_bytes * share),
        )

    @property
    def offloaded_output_bytes(self) -> int:
        """What a GPU holds to compute the output: of a tied embedding, a copy."""
        return self.output_bytes + (self.embedding_bytes if self.tied else 0)

    def cache_bytes(self, layer: Layer, parameters: Parameters) -> int:
        """The cache and the state of one layer with these parameters."""
        sequences = parameters.n_seq_max
        tokens = _padded(-(-_padded(parameters.n_ctx) // sequences))
        if layer.windowed and not parameters.swa_full:
            tokens = min(tokens, _padded(self.window + min(parameters.n_ubatch, parameters.n_batch)))
        key, value = GgmlType[parameters.type_k.upper()], GgmlType[parameters.type_v.upper()]
        of_token = row_bytes(key, layer.key_width) + row_bytes(value, layer.value_width)
        return sequences * (tokens * of_token + layer.state_bytes)

    def estimate(self, parameters: Parameters) -> Memory:
        """The whole model with these parameters, without asking the engine."""
        batch = min(parameters.n_ubatch, parameters.n_batch, _padded(parameters.n_ctx))
        return Memory(
            weights_bytes=self.weights_bytes,
            kv_cache_bytes=sum(self.cache_bytes(layer, parameters) for layer in self.layers),
            compute_bytes=self._compute_bytes(batch, parameters),
            output_bytes=parameters.n_seq_max * self.vocabulary * _F32_BYTES,
            source="analytic",
        )

    def _compute_bytes(self, batch: int, parameters: Parameters) -> int:
        """The largest moment of a batch: all logits beside two rows of embeddings, or the widest step inside a layer
        beside four of them and the attention's mask in F16."""
        mask = _padded(-(-_padded(parameters.n_ctx) // parameters.n_seq_max)) * _F16_BYTES
        logits = (self.vocabulary + 2 * self.embedding) * _F32_BYTES
        inside = (self.widest + 4 * self.embedding) * _F32_BYTES + mask * any(one.key_width for one in self.layers)
        return batch * max(logits, inside)


def row_bytes(kind: GgmlType, width: int) -> int:
    """The bytes of `width` elements in a type, whole blocks."""
    return -(-width // kind.block_length) * kind.block_bytes


def footprint(header: Header, tensors: Sequence[Tensor] | None = None) -> Footprint:
    """The footprint of an audited model. `tensors` are those of all shards, by default the header's own."""
    shape = model_shape(header)
    tensors = header.tensors if tensors is None else tensors
    of_layer: dict[int, dict[str, Tensor]] = defaultdict(dict)
    beside: dict[str, Tensor] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match:
            of_layer[int(match[1])][match[2]] = tensor
        else:
            beside[tensor.name] = tensor
    computed = shape.layers - shape.prediction_layers if shape.prediction_layers < shape.layers else shape.layers
    windows = _windowed(header, computed)
    cached = _CACHED_LAYERS.get(header.architecture or "", computed)
    embedding = beside.get("token_embd.weight")
    output = [tensor for name, tensor in beside.items() if name.startswith("output")]
    size = sum(tensor.size_bytes for tensor in output)
    return Footprint(
        layers=tuple(
            _layer(header, shape, number, of_layer.get(number, {}), windows[number], cached=number < cached)
            for number in range(computed)
        )
        + (Layer(0),) * (shape.layers - computed),  # those that predict ahead are not loaded, and counted all the same
        input_bytes=sum(tensor.size_bytes for tensor in beside.values()) - size,
        embedding_bytes=embedding.size_bytes if embedding is not None else 0,
        output_bytes=size,
        tied="output.weight" not in beside,
        window=header.integer(f"{header.architecture}.attention.sliding_window")
        or _WINDOW_DEFAULT.get(header.architecture or "", 0),
        embedding=shape.embedding,
        widest=_widest(header, shape, of_layer.values()),
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
    """(keys, values) of a token in elements."""
    if "attn_kv_a_mqa.weight" in tensors and header.architecture_value("attention.key_length_mla") is not None:
        return tensors["attn_kv_a_mqa.weight"].shape[1], 0
    heads = shape.kv_heads[number] or (shape.heads[number] if "attn_kv_a_mqa.weight" in tensors else 0)
    if "attn_k.weight" in tensors and "attn_v.weight" in tensors:
        return tensors["attn_k.weight"].shape[1], tensors["attn_v.weight"].shape[1]
    fused = "attn_qkv.weight" in tensors and not _is_recurrent(tensors)  # a delta net has one of that name too
    if fused or "attn_kv_b.weight" in tensors:
        return heads * shape.key_length, heads * shape.value_length
    return 0, 0


def _is_recurrent(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith(("ssm_", "shortconv.", "time_mix_")) for name in tensors)


def _state_elements(header: Header, shape: ModelShape, number: int, tensors: dict[str, Tensor]) -> int:
    """What a recurrent layer keeps of a sequence: the last inputs of its convolution, and its state."""
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
    """Elements of a token that live at once at the widest step inside a layer: of a feed-forward with a gate the gate,
    its other half and their product, each of every expert in use; of an attention the queries and the answer, both
    twice."""
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
    """Which layers see no more than a window of the tokens."""
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
