"""Read the first kilobytes of a GGUF: its kind, and the family of models that it belongs to.

A *family* is what the quantizations of one model have in common: architecture, layers, width and vocabulary. Two files
of one family are quantizations of one model, or fine-tunes of it; files of different families are different models: a
smaller sibling, or a draft model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paddock.gguf.header import Header
from paddock.gguf.kind import ModelKind, kind_of, kind_of_metadata
from paddock.gguf.reader import ByteSource, read_first_pairs

_TOKENS = "tokenizer.ggml.tokens"
_PROJECTION_DIMS = ("clip.vision.projection_dim", "clip.audio.projection_dim", "clip.projection_dim")


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """The properties that all quantizations of a model share. `width` is the embedding length, `vocabulary` the number
    of tokens, None if the file does not state it."""

    architecture: str
    layers: int
    width: int
    vocabulary: int | None

    def __str__(self) -> str:
        tokens = f", {self.vocabulary} tokens" if self.vocabulary else ""
        return f"{self.architecture}, {self.layers} layers of width {self.width}{tokens}"


@dataclass(frozen=True, slots=True)
class Head:
    """The kind of a GGUF and, for a model, its family and number of parameters.

    `parameters` is exact if the tensors were read (`head_of`), else an estimate from the hyperparameters.
    `projection_dim` is the width of the models that a projector is for, None if it is not stated.
    """

    kind: ModelKind
    family: ModelFamily | None
    parameters: int
    exact: bool
    projection_dim: int | None = None


def read_head(source: ByteSource) -> Head:
    """Read the head of a file, or of the first shard of a split model. Raises NotGguf and MalformedGguf."""
    pairs = read_first_pairs(source, until=lambda scalars: _family(scalars, None) is not None)
    scalars = dict(pairs.scalars)
    shards = scalars.get("split.count")
    is_split = isinstance(shards, int) and shards > 1
    kind = kind_of_metadata(scalars, tensors=None if is_split else pairs.tensor_count)
    family = _family(scalars, pairs.counts.get(_TOKENS)) if kind.is_model else None
    parameters = _estimate_parameters(scalars, family) if family else 0
    return Head(kind, family, parameters, exact=False, projection_dim=_projection_dim(scalars))


def head_of(first: Header, *, parameters: int) -> Head:
    """The head of a model whose headers were read. `first` is that of the first shard, and `parameters` the number of
    weights in all shards."""
    kind = kind_of(first)
    tokens = first.array(_TOKENS)
    family = _family(first.metadata, tokens.count if tokens else None) if kind.is_model else None
    return Head(kind, family, parameters, exact=True, projection_dim=_projection_dim(first.metadata))


def _family(metadata: Mapping[str, object], tokens: int | None) -> ModelFamily | None:
    architecture = metadata.get("general.architecture")
    layers, width = (metadata.get(f"{architecture}.{suffix}") for suffix in ("block_count", "embedding_length"))
    if not isinstance(architecture, str) or not isinstance(layers, int) or not isinstance(width, int):
        return None
    stated = metadata.get(f"{architecture}.vocab_size")
    return ModelFamily(architecture, layers, width, tokens or (stated if isinstance(stated, int) else None))


def _estimate_parameters(metadata: Mapping[str, object], family: ModelFamily) -> int:
    """The number of weights of a transformer with these hyperparameters: embeddings, attention, and feed-forward layers
    with three matrices for each expert. It is meant for comparisons, and may be wrong by half."""

    def number(suffix: str) -> int:
        value = metadata.get(f"{family.architecture}.{suffix}")
        return value if isinstance(value, int) and value > 0 else 0

    width = family.width
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    shared_kv = kv_heads / heads if heads and kv_heads else 1.0
    dense, experts = number("feed_forward_length") or 4 * width, number("expert_count")
    feed_forward = experts * (number("expert_feed_forward_length") or dense) if experts else dense
    layer = 2 * width * width * (1 + shared_kv) + 3 * width * feed_forward
    return int((family.vocabulary or 0) * width + family.layers * layer)


def _projection_dim(metadata: Mapping[str, object]) -> int | None:
    found = (metadata.get(key) for key in _PROJECTION_DIMS)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
