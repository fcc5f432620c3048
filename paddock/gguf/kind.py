"""Tell from a header what a GGUF is: a language model, an embedding model, a projector, an importance matrix, ...

The kind is told by `general.type` and `general.architecture`, by the keys that only one kind has (`adapter.type`,
pooling, causal attention), and by the tensors. The file's name is never used. Whether the model is sound, and whether
the engine supports its architecture, is checked in `paddock.gguf.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from paddock.gguf.header import Header, Tensor
from paddock.gguf.split import shard_info


class ModelKind(StrEnum):
    """The kind of a GGUF. `is_model` kinds can be loaded by themselves; all others accompany a model."""

    TEXT = "text"
    EMBEDDING = "embedding"
    RERANKER = "reranker"
    ENCODER_DECODER = "encoder-decoder"
    DIFFUSION = "diffusion"
    SPEECH = "speech"
    DRAFT = "draft"
    PROJECTOR = "projector"
    ADAPTER = "adapter"
    CONTROL_VECTOR = "control-vector"
    IMPORTANCE_MATRIX = "importance-matrix"
    VOCABULARY = "vocabulary"

    @property
    def is_model(self) -> bool:
        return self in _MODELS

    @property
    def generates_text(self) -> bool:
        """Whether the engine generates text with it, token by token."""
        return self is ModelKind.TEXT

    @property
    def embeds(self) -> bool:
        """Whether the engine turns a prompt into embeddings or scores with it. Of an encoder-decoder model that is the
        encoder's part."""
        return self in _EMBEDDING_KINDS

    @property
    def noun(self) -> str:
        """The kind with an article, for sentences: `an importance matrix`."""
        return _NOUNS[self]


_EMBEDDING_KINDS: Final = frozenset({ModelKind.EMBEDDING, ModelKind.RERANKER, ModelKind.ENCODER_DECODER})
_MODELS: Final = frozenset({ModelKind.TEXT, *_EMBEDDING_KINDS, ModelKind.DIFFUSION, ModelKind.SPEECH, ModelKind.DRAFT})
_NOUNS: Final = {
    ModelKind.TEXT: "a language model",
    ModelKind.EMBEDDING: "an embedding model",
    ModelKind.RERANKER: "a reranker",
    ModelKind.ENCODER_DECODER: "an encoder-decoder model",
    ModelKind.DIFFUSION: "a diffusion language model",
    ModelKind.SPEECH: "a speech model",
    ModelKind.DRAFT: "a draft head of another model",
    ModelKind.PROJECTOR: "a multimodal projector",
    ModelKind.ADAPTER: "an adapter",
    ModelKind.CONTROL_VECTOR: "a control vector",
    ModelKind.IMPORTANCE_MATRIX: "an importance matrix for quantization",
    ModelKind.VOCABULARY: "a vocabulary without weights",
}
_TYPES: Final = {
    "adapter": ModelKind.ADAPTER,
    "mmproj": ModelKind.PROJECTOR,
    "imatrix": ModelKind.IMPORTANCE_MATRIX,
    "controlvector": ModelKind.CONTROL_VECTOR,
}
_ARCHITECTURES: Final = {
    "clip": ModelKind.PROJECTOR,
    "imatrix": ModelKind.IMPORTANCE_MATRIX,
    "controlvector": ModelKind.CONTROL_VECTOR,
    "t5": ModelKind.ENCODER_DECODER,
    "t5encoder": ModelKind.EMBEDDING,
    "bert": ModelKind.EMBEDDING,
    "modern-bert": ModelKind.EMBEDDING,
    "neo-bert": ModelKind.EMBEDDING,
    "eurobert": ModelKind.EMBEDDING,
    "nomic-bert": ModelKind.EMBEDDING,
    "nomic-bert-moe": ModelKind.EMBEDDING,
    "jina-bert-v2": ModelKind.EMBEDDING,
    "jina-bert-v3": ModelKind.EMBEDDING,
    "gemma-embedding": ModelKind.EMBEDDING,
    "llama-embed": ModelKind.EMBEDDING,
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), ModelKind.DIFFUSION),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), ModelKind.SPEECH),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), ModelKind.DRAFT),
}
_POOLING_NONE: Final = 0
_POOLING_LAST: Final = 3
_POOLING_RANK: Final = 4  # enum llama_pooling_type
_CLASSIFIER: Final = frozenset({"cls.weight", "cls.output.weight"})


def kind_of(header: Header, *, all_tensors: Sequence[Tensor] | None = None) -> ModelKind:
    """The kind of the file with this header, or of the split model with this first header and `all_tensors`."""
    tensors = header.tensors if all_tensors is None else all_tensors
    count = len(tensors) if all_tensors is not None or shard_info(header) is None else None
    kind = kind_of_metadata(header.metadata, tensors=count)
    is_classifier = kind.is_model and any(tensor.name in _CLASSIFIER for tensor in tensors)
    return ModelKind.RERANKER if is_classifier else kind


def kind_of_metadata(metadata: Mapping[str, object], *, tensors: int | None) -> ModelKind:
    """The kind of a file with these keys, as far as the keys tell it. `tensors` is the number of tensors, None if it is
    not known."""
    if "adapter.type" in metadata:
        return ModelKind.ADAPTER
    stated, architecture = metadata.get("general.type"), metadata.get("general.architecture")
    kind = _TYPES.get(stated.lower()) if isinstance(stated, str) else None
    kind = _ARCHITECTURES.get(architecture, kind) if isinstance(architecture, str) else kind
    if kind is not None and not kind.is_model:
        return kind
    if tensors == 0:
        return ModelKind.VOCABULARY
    pooling = metadata.get(f"{architecture}.pooling_type")
    if pooling == _POOLING_RANK:
        return ModelKind.RERANKER
    if kind is not None:
        return kind
    is_pooled = isinstance(pooling, int) and pooling > _POOLING_NONE
    if is_pooled or metadata.get(f"{architecture}.attention.causal") is False:
        return ModelKind.EMBEDDING
    return ModelKind.TEXT


def states_pooling(header: Header) -> bool:
    """Whether the header says how token vectors become the embedding of a text."""
    pooling = header.metadata.get(f"{header.architecture}.pooling_type")
    return isinstance(pooling, int) and pooling > _POOLING_NONE


def computes_whole_prompts(header: Header, kind: ModelKind) -> bool:
    """Whether the engine computes a prompt of such a model in one batch only.

    It splits prompts where a token is computed from earlier tokens alone, and the last token's vector is the result.
    """
    if not kind.embeds:
        return False
    causal = (
        header.architecture not in _ARCHITECTURES
        and header.metadata.get(f"{header.architecture}.attention.causal") is not False
    )
    pooling = header.metadata.get(f"{header.architecture}.pooling_type")
    return not (causal and pooling in {_POOLING_LAST, _POOLING_RANK})
