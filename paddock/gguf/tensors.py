"""Check the tensor table against the model: tensor types, required tensors, and shapes.

For the architectures in `STANDARD_DECODERS`, every tensor follows from the hyperparameters and is checked. For others,
the token embedding, the presence of each layer, the number of experts and the names of tensors are checked; preflight
covers the rest with the engine's own loader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from paddock.gguf.format import NOT_WEIGHTS, GgmlType
from paddock.gguf.header import Header, Tensor
from paddock.gguf.hyperparameters import SINGLE_EXPERT_MEANS_DENSE, STANDARD_DECODERS, ModelShape, model_shape
from paddock.gguf.tensor_names import EXPERT, is_known
from paddock.model.finding import Finding, Severity

_EMBEDDING = "token_embd.weight"
# the token embedding may be missing, or have the width of the features or the rows of another model's vocabulary
_NONSTANDARD_EMBEDDING: Final = frozenset({"wavtokenizer-dec", "codeshell", "eagle3", "dflash"})
_MAY_HAVE_EXPERTS: Final = frozenset({"llama", "granite", "mistral3"})
"""The standard decoders of which the engine reads the tensors of experts, if there are any."""
_EXPERT_INDICES: Final = re.compile(r"blk\.\d+\.ffn_gate_tid2eid\.weight")  # DeepSeek V4: a table of expert numbers
_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_CURE = "use another file; this one was made or changed by a faulty or hostile program"
_EXPERTS: Final = re.compile(r"blk\.\d{1,9}\.ffn_(?:gate|up|down|gate_up)_exps\.weight")
_ROUTER: Final = re.compile(r"blk\.\d{1,9}\.ffn_gate_inp\.weight")
_CURE_CONVERT_AGAIN = "use a file that was converted with a current llama.cpp"


def check_types(tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """Check that no weight has a type for intermediate results, and that norms and biases are F32, which is the only
    type the engine can multiply or add with.
    """
    for tensor in tensors:
        if tensor.type in NOT_WEIGHTS and not (tensor.type is GgmlType.I32 and _EXPERT_INDICES.fullmatch(tensor.name)):
            message = f"the tensor {tensor.name!r} has type {tensor.type.name}, which cannot store weights"
            yield Finding("gguf.tensor.type", Severity.REJECT, message, tensor.name, _CURE)
        elif (
            len(tensor.shape) == 1
            and tensor.type is not GgmlType.F32
            and tensor.name.endswith(("_norm.weight", ".bias"))
        ):
            message = f"the tensor {tensor.name!r} has type {tensor.type.name}, but the engine requires F32"
            yield Finding("gguf.tensor.norm-type", Severity.REJECT, message, tensor.name, _CURE_CONVERT_AGAIN)


def check_names(tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """Check that the engine has a place for each tensor: it refuses a file with a tensor that it does not use."""
    of_experts = [tensor.name for tensor in tensors if EXPERT.fullmatch(tensor.name)]
    if of_experts:
        message = (
            f"each expert has tensors of its own ({len(of_experts)} in all, the first is {of_experts[0]!r}), a layout"
            " of files before 2024 that the engine no longer loads"
        )
        cure = "use a newer file of this model, or convert and quantize it again with a current llama.cpp"
        yield Finding("gguf.model.expert-layout", Severity.REJECT, message, of_experts[0], cure)
    unknown = [tensor.name for tensor in tensors if not is_known(tensor.name) and not EXPERT.fullmatch(tensor.name)]
    if unknown:
        message = f"{len(unknown)} tensors belong to no architecture of the engine, the first is {unknown[0]!r}"
        yield Finding("gguf.model.tensor-unknown", Severity.REJECT, message, unknown[0], _CURE)


def embedding_rows(header: Header, tensors: Sequence[Tensor]) -> int | None:
    """Return the number of rows of the token embedding, which must equal the number of tokens.

    Returns None if there is no token embedding, or the architecture uses a nonstandard one.
    """
    embedding = next((tensor for tensor in tensors if tensor.name == _EMBEDDING), None)
    if embedding is None or header.architecture in _NONSTANDARD_EMBEDDING:
        return None
    return embedding.shape[1] if len(embedding.shape) > 1 else 1


def check_required(header: Header, tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """Check that the tensors of a whole model are present, with the shapes given by the hyperparameters.

    The hyperparameters must have passed `hyperparameters.check`.
    """
    shape = model_shape(header)
    by_name = {tensor.name: tensor for tensor in tensors}
    embedding = by_name.get(_EMBEDDING)
    if header.architecture not in _NONSTANDARD_EMBEDDING:
        if embedding is None:
            yield Finding(
                "gguf.model.tensor-missing", Severity.REJECT, "the model has no token embedding", _EMBEDDING, _CURE
            )
        elif embedding.shape[0] != shape.embedding:
            yield _wrong_shape(embedding, (shape.embedding, "vocabulary"))
    yield from _check_vocabulary_size(header, tensors)
    yield from _check_layers(tensors, shape)
    yield from _check_experts(header, tensors, shape)
    yield from _check_positions(header, by_name)
    if header.architecture in STANDARD_DECODERS:
        experts = shape.experts if header.architecture in _MAY_HAVE_EXPERTS else 0
        yield from _check_standard_decoder(by_name, replace(shape, experts=experts))


def _check_layers(tensors: Sequence[Tensor], shape: ModelShape) -> Iterator[Finding]:
    layers = {int(match[1]) for tensor in tensors if (match := _LAYER.match(tensor.name))}
    if not layers:
        return
    last = max(layers)
    if last >= shape.layers:
        message = f"there are tensors of layer {last}, but the model has only layers 0 to {shape.layers - 1}"
        yield Finding("gguf.model.layers", Severity.REJECT, message, f"blk.{last}", _CURE)
    # multi-token prediction layers come last and may have been left out
    missing = sorted(set(range(shape.layers - shape.prediction_layers)) - layers)
    if missing:
        message = f"{len(missing)} of {shape.layers} layers have no tensors, the first is layer {missing[0]}"
        yield Finding("gguf.model.layers", Severity.REJECT, message, f"blk.{missing[0]}", _CURE)


def _check_vocabulary_size(header: Header, tensors: Sequence[Tensor]) -> Iterator[Finding]:
    stated, rows = header.architecture_value("vocab_size"), embedding_rows(header, tensors)
    if isinstance(stated, int) and rows is not None and stated != rows:
        key = f"{header.architecture}.vocab_size"
        message = f"{key} is {stated}, but the token embedding has {rows} rows"
        yield Finding("gguf.model.vocabulary-size", Severity.REJECT, message, key, _CURE)


def _check_experts(header: Header, tensors: Sequence[Tensor], shape: ModelShape) -> Iterator[Finding]:
    """Check that the tensors of experts have as many experts as the hyperparameters state."""
    if shape.experts <= 1 and header.architecture in SINGLE_EXPERT_MEANS_DENSE:
        return
    for tensor in tensors:
        position = 2 if _EXPERTS.fullmatch(tensor.name) else 1 if _ROUTER.fullmatch(tensor.name) else None
        if position is None:
            continue
        count = tensor.shape[position] if len(tensor.shape) > position else 1
        if count != shape.experts:
            message = (
                f"the tensor {tensor.name!r} is for {count} experts, but the hyperparameters state {shape.experts}"
            )
            yield Finding("gguf.model.experts", Severity.REJECT, message, tensor.name, _CURE)
            return


def _check_positions(header: Header, by_name: dict[str, Tensor]) -> Iterator[Finding]:
    positions = by_name.get("position_embd.weight")
    wanted = (header.integer(f"{header.architecture}.embedding_length"), header.architecture_value("context_length"))
    if positions is not None and _trimmed(positions.shape) != wanted:
        yield _wrong_shape(positions, wanted)


def _check_standard_decoder(by_name: dict[str, Tensor], shape: ModelShape) -> Iterator[Finding]:
    for name, expected in _required_tensors(by_name, shape):
        tensor = by_name.get(name)
        if tensor is None:
            message = f"the tensor {name!r} is missing, but the architecture requires it"
            yield Finding("gguf.model.tensor-missing", Severity.REJECT, message, name, _CURE)
        elif _trimmed(tensor.shape) != _trimmed(expected):
            yield _wrong_shape(tensor, expected)
    for name, expected in _optional_tensors(shape, by_name.get(_EMBEDDING)):
        tensor = by_name.get(name)
        if tensor is not None and _trimmed(tensor.shape) != _trimmed(expected):
            yield _wrong_shape(tensor, expected)


def _optional_tensors(shape: ModelShape, embedding: Tensor | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the optional tensors of a standard decoder, with their shapes."""
    if embedding is not None:
        yield "output.weight", embedding.shape
    for layer in range(shape.layers):
        heads, kv_heads = shape.heads[layer], shape.kv_heads[layer]
        yield f"blk.{layer}.attn_q.bias", (heads * shape.key_length,)
        yield f"blk.{layer}.attn_k.bias", (kv_heads * shape.key_length,)
        yield f"blk.{layer}.attn_v.bias", (kv_heads * shape.value_length,)


def _required_tensors(by_name: dict[str, Tensor], shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the required tensors of a standard decoder, with their shapes."""
    width = shape.embedding
    yield "output_norm.weight", (width,)
    for layer in range(shape.layers):
        heads, kv_heads, feed_forward = shape.heads[layer], shape.kv_heads[layer], shape.feed_forward[layer]
        query, key, value = heads * shape.key_length, kv_heads * shape.key_length, kv_heads * shape.value_length
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", (width,)
        if prefix + "attn_qkv.weight" in by_name:
            yield prefix + "attn_qkv.weight", (width, query + key + value)
        else:
            yield prefix + "attn_q.weight", (width, query)
            yield prefix + "attn_k.weight", (width, key)
            yield prefix + "attn_v.weight", (width, value)
        yield prefix + "attn_output.weight", (heads * shape.key_length, width)
        yield prefix + "ffn_norm.weight", (width,)
        if shape.experts:
            yield prefix + "ffn_gate_inp.weight", (width, shape.experts)
            yield prefix + "ffn_up_exps.weight", (width, feed_forward, shape.experts)
            yield prefix + "ffn_down_exps.weight", (feed_forward, width, shape.experts)
        else:
            yield prefix + "ffn_gate.weight", (width, feed_forward)
            yield prefix + "ffn_up.weight", (width, feed_forward)
            yield prefix + "ffn_down.weight", (feed_forward, width)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Remove trailing dimensions of 1, which have no meaning."""
    end = len(shape)
    while end > 1 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _wrong_shape(tensor: Tensor, expected: Sequence[object]) -> Finding:
    actual, wanted = ("×".join(map(str, shape)) for shape in (tensor.shape, expected))
    message = f"the tensor {tensor.name!r} has shape {actual}, but the hyperparameters require {wanted}"
    return Finding("gguf.model.tensor-shape", Severity.REJECT, message, tensor.name, _CURE)
