"""The rules of the tensor table that the reader leaves open: types that weights have, and tensors that a model needs.

A *plain* architecture is a decoder of equal layers whose tensors follow from its hyperparameters by one table; it is
checked tensor by tensor. Of the others only what all have in common is: the embedding, and that each layer is there.
The engine's own loader, which the preflight asks, knows the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from paddock.gguf.format import NOT_WEIGHTS, GgmlType
from paddock.gguf.header import Header, Tensor
from paddock.gguf.hyperparameters import PLAIN, Shape, shape_of
from paddock.model.finding import Finding, Severity

_EMBEDDING = "token_embd.weight"
# its own embedding may be missing, or have the width of its features or the rows of another model's vocabulary
_OTHER_EMBEDDING: Final = frozenset({"wavtokenizer-dec", "codeshell", "eagle3", "dflash"})
_INDICES: Final = re.compile(r"blk\.\d+\.ffn_gate_tid2eid\.weight")  # DeepSeek V4 routes by a table of expert numbers
_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_CURE = "use another file; this one was made or changed by a faulty or hostile program"
_ANEW = "use a file that was converted with a current llama.cpp"


def check_types(tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """No weight in a type of intermediate results, and no norm or bias in a type that the engine cannot multiply or add
    with.
    """
    for tensor in tensors:
        if tensor.type in NOT_WEIGHTS and not (tensor.type is GgmlType.I32 and _INDICES.fullmatch(tensor.name)):
            message = f"the tensor {tensor.name!r} is of type {tensor.type.name}, which holds no weights"
            yield Finding("gguf.tensor.type", Severity.REJECT, message, tensor.name, _CURE)
        elif (
            len(tensor.shape) == 1
            and tensor.type is not GgmlType.F32
            and tensor.name.endswith(("_norm.weight", ".bias"))
        ):
            message = f"the tensor {tensor.name!r} is of type {tensor.type.name}, and the engine aborts on all but F32"
            yield Finding("gguf.tensor.norm-type", Severity.REJECT, message, tensor.name, _ANEW)


def embedding_rows(header: Header, tensors: Sequence[Tensor]) -> int | None:
    """The token embedding's rows, one for each token; None where there is none, or it follows another rule."""
    found = next((tensor for tensor in tensors if tensor.name == _EMBEDDING), None)
    if found is None or header.architecture in _OTHER_EMBEDDING:
        return None
    return found.shape[1] if len(found.shape) > 1 else 1


def check_needed(header: Header, tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """That the tensors of a whole model are there, in the shapes that follow from hyperparameters that have passed
    their own rules.
    """
    shape = shape_of(header)
    by_name = {tensor.name: tensor for tensor in tensors}
    embedding = by_name.get(_EMBEDDING)
    if header.architecture not in _OTHER_EMBEDDING:
        if embedding is None:
            yield Finding(
                "gguf.model.tensor-missing", Severity.REJECT, "the model has no token embedding", _EMBEDDING, _CURE
            )
        elif embedding.shape[0] != shape.embedding:
            yield _wrong_shape(embedding, (shape.embedding, "vocabulary"))
    yield from _check_layers(tensors, shape)
    if header.architecture in PLAIN:
        yield from _check_plain(by_name, shape)


def _check_layers(tensors: Sequence[Tensor], shape: Shape) -> Iterator[Finding]:
    layers = {int(match[1]) for tensor in tensors if (match := _LAYER.match(tensor.name))}
    if not layers:
        return
    beyond = max(layers)
    if beyond >= shape.layers:
        message = f"there are tensors of layer {beyond}, and the model has {shape.layers} layers, counted from 0"
        yield Finding("gguf.model.layers", Severity.REJECT, message, f"blk.{beyond}", _CURE)
    # layers that only predict ahead come last, and may have been left out
    missing = sorted(set(range(shape.layers - shape.ahead)) - layers)
    if missing:
        message = f"{len(missing)} of {shape.layers} layers have no tensor, layer {missing[0]} the first"
        yield Finding("gguf.model.layers", Severity.REJECT, message, f"blk.{missing[0]}", _CURE)


def _check_plain(by_name: dict[str, Tensor], shape: Shape) -> Iterator[Finding]:
    for name, expected in _plain_tensors(by_name, shape):
        tensor = by_name.get(name)
        if tensor is None:
            message = f"the tensor {name!r} is missing, and the architecture needs it"
            yield Finding("gguf.model.tensor-missing", Severity.REJECT, message, name, _CURE)
        elif _trimmed(tensor.shape) != _trimmed(expected):
            yield _wrong_shape(tensor, expected)
    for name, expected in _plain_extras(shape, by_name.get(_EMBEDDING)):
        tensor = by_name.get(name)
        if tensor is not None and _trimmed(tensor.shape) != _trimmed(expected):
            yield _wrong_shape(tensor, expected)


def _plain_extras(shape: Shape, embedding: Tensor | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors that a plain architecture may have, with their shapes."""
    if embedding is not None:
        yield "output.weight", embedding.shape
    for layer in range(shape.layers):
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        yield f"blk.{layer}.attn_q.bias", (heads * shape.key_length,)
        yield f"blk.{layer}.attn_k.bias", (kv_heads * shape.key_length,)
        yield f"blk.{layer}.attn_v.bias", (kv_heads * shape.value_length,)


def _plain_tensors(by_name: dict[str, Tensor], shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor that a plain architecture needs, with its shape."""
    width = shape.embedding
    yield "output_norm.weight", (width,)
    for layer in range(shape.layers):
        heads, kv_heads, inner = shape.heads[layer], shape.kv_heads[layer], shape.feed_forward[layer]
        query, key, value = heads * shape.key_length, kv_heads * shape.key_length, kv_heads * shape.value_length
        start = f"blk.{layer}."
        yield start + "attn_norm.weight", (width,)
        if start + "attn_qkv.weight" in by_name:
            yield start + "attn_qkv.weight", (width, query + key + value)
        else:
            yield start + "attn_q.weight", (width, query)
            yield start + "attn_k.weight", (width, key)
            yield start + "attn_v.weight", (width, value)
        yield start + "attn_output.weight", (heads * shape.key_length, width)
        yield start + "ffn_norm.weight", (width,)
        if not shape.experts:
            yield start + "ffn_gate.weight", (width, inner)
            yield start + "ffn_up.weight", (width, inner)
            yield start + "ffn_down.weight", (inner, width)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its trailing ones, which mean nothing."""
    end = len(shape)
    while end > 1 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _wrong_shape(tensor: Tensor, expected: tuple[int | str, ...]) -> Finding:
    came, wanted = ("×".join(map(str, shape)) for shape in (tensor.shape, expected))
    message = f"the tensor {tensor.name!r} is {came}, and {wanted} follows from the hyperparameters"
    return Finding("gguf.model.tensor-shape", Severity.REJECT, message, tensor.name, _CURE)
