"""Whether the model in a header makes sense: all the rules that the header alone decides.

`paddock.gguf.reader` has already held the file to the format; here its content is held to what the engine can load and
compute with. The rules of hyperparameters, tensors, tokenizer and shards have files of their own. A check records
findings and never decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paddock.gguf import hyperparameters, split, tensors, tokenizer
from paddock.gguf.format import ValueType
from paddock.gguf.header import Array, Header, Tensor
from paddock.model.finding import Finding, Severity

_NOT_A_MODEL = {
    "adapter": (
        "gguf.model.is-adapter",
        "an adapter",
        "use the model that it adapts, and give the adapter to the engine beside it",
    ),
    "mmproj": (
        "gguf.model.is-projector",
        "a multimodal projector",
        "use the language model; the projector goes beside it",
    ),
    "imatrix": ("gguf.model.is-imatrix", "an importance matrix for quantizing", "use the model itself"),
    "controlvector": ("gguf.model.is-control-vector", "a control vector", "use the model that it steers"),
}
_ARCHITECTURES = {"clip": "mmproj", "controlvector": "controlvector", "imatrix": "imatrix"}
_TYPES = {
    "general.architecture": ValueType.STRING,
    "general.type": ValueType.STRING,
    "general.name": ValueType.STRING,
    "general.file_type": ValueType.UINT32,
}


def check(header: Header, *, all_tensors: Sequence[Tensor] | None = None) -> list[Finding]:
    """All findings on one file, or on the first shard of a model whose shards have `all_tensors` together."""
    return [*check_file(header), *check_model(header, all_tensors=all_tensors)]


def check_file(header: Header) -> Iterator[Finding]:
    """The rules that hold for each file, whichever part of a model it is."""
    padded = -(-header.data_end // header.alignment) * header.alignment
    if header.size > padded:
        message = f"{header.size - header.data_end} bytes follow the last tensor, and only padding may"
        cure = "use another file: what is hidden there is no part of the model"
        yield Finding("gguf.container.trailing", Severity.REJECT, message, f"byte {header.data_end}", cure)
    yield from _check_texts(header)
    yield from tensors.check_types(header.tensors)
    yield from split.check(header)


def check_model(header: Header, *, all_tensors: Sequence[Tensor] | None = None) -> Iterator[Finding]:
    """The rules of the model. A later shard has no metadata of its own to judge."""
    part = split.split_of(header)
    if part and part.number > 0:
        return
    for key, expected in _TYPES.items():
        if header.types.get(key, expected) is not expected:
            message = f"{key} is of type {header.types[key].name}, not {expected.name}"
            yield Finding("gguf.model.key-type", Severity.REJECT, message, key, "use another file")
    other = _is_no_model(header)
    if other is not None:
        yield other
        return
    architecture = header.architecture
    if not architecture:
        message = "the file names no architecture" if architecture is None else "the architecture's name is empty"
        cure = "use a file that was converted with a current llama.cpp"
        yield Finding("gguf.model.architecture", Severity.REJECT, message, "general.architecture", cure)
        return
    there = tuple(all_tensors) if all_tensors is not None else header.tensors
    whole = part is None or all_tensors is not None
    if whole and not there:
        message = "the file holds a vocabulary and no weights"
        yield Finding("gguf.model.is-vocabulary", Severity.REJECT, message, "byte 8", "use the model itself")
        whole = False
    if there or not whole:
        breaches = list(hyperparameters.check(header)) if there else []
        yield from breaches
        if whole and not any(finding.severity is Severity.REJECT for finding in breaches):
            yield from tensors.check_needed(header, there)
    yield from tokenizer.check(header, embedding_rows=tensors.embedding_rows(header, there))


def _check_texts(header: Header) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        # the tokenizer's own arrays are read by its rules
        if isinstance(value, Array) and value.type is ValueType.STRING and not key.startswith(tokenizer.PREFIX):
            try:
                for item in value.each():
                    item.decode()
            except UnicodeDecodeError:
                message = f"a string of the array {key[:80]!r} is not UTF-8"
                yield Finding("gguf.key.utf8", Severity.REJECT, message, key[:80], "use another file")


def _is_no_model(header: Header) -> Finding | None:
    kind = (header.text("general.type") or "").lower()
    if "adapter.type" in header.metadata:
        kind = "adapter"
    kind = _ARCHITECTURES.get(header.architecture or "", kind)
    if kind not in _NOT_A_MODEL:
        return None
    rule, what, cure = _NOT_A_MODEL[kind]
    return Finding(rule, Severity.REJECT, f"the file is {what}, not a model", "general.type", cure)
