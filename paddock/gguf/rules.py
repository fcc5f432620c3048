"""Check that the engine can load the model described by a parsed GGUF header.

`paddock.gguf.reader` has already checked the file format. This module combines the checks that need only the header:
those of `hyperparameters`, `tensors`, `tokenizer` and `split`, and the file type. Checks return findings; the verdict
is derived from them elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paddock.gguf import hyperparameters, split, tensors, tokenizer
from paddock.gguf.format import ValueType
from paddock.gguf.header import Array, Header, Tensor
from paddock.gguf.kind import ModelKind, kind_of
from paddock.model.finding import Finding, Severity

_NOT_A_MODEL = {
    ModelKind.ADAPTER: (
        "gguf.model.is-adapter",
        "use the base model, and pass the adapter to the engine separately",
    ),
    ModelKind.PROJECTOR: (
        "gguf.model.is-projector",
        "use the language model; the projector is loaded in addition to it",
    ),
    ModelKind.IMPORTANCE_MATRIX: ("gguf.model.is-imatrix", "use the model itself"),
    ModelKind.CONTROL_VECTOR: ("gguf.model.is-control-vector", "use the model that it was made for"),
}
_TYPES = {
    "general.architecture": ValueType.STRING,
    "general.type": ValueType.STRING,
    "general.name": ValueType.STRING,
    "general.file_type": ValueType.UINT32,
}


def check(header: Header, *, all_tensors: Sequence[Tensor] | None = None) -> list[Finding]:
    """Check one file, or the first shard of a model. `all_tensors` are the tensors of all its shards together."""
    return [*check_file(header), *check_model(header, all_tensors=all_tensors)]


def check_file(header: Header) -> Iterator[Finding]:
    """Apply the checks that hold for every file, including single shards."""
    padded = -(-header.data_end // header.alignment) * header.alignment
    if header.size > padded:
        message = f"{header.size - header.data_end} bytes follow the last tensor, where only padding is allowed"
        cure = "use another file: the extra data is not part of the model"
        yield Finding("gguf.container.trailing", Severity.REJECT, message, f"byte {header.data_end}", cure)
    yield from _check_strings(header)
    yield from tensors.check_types(header.tensors)
    yield from split.check(header)


def check_model(header: Header, *, all_tensors: Sequence[Tensor] | None = None) -> Iterator[Finding]:
    """Apply the checks of the whole model. Shards after the first are skipped: they have no model metadata."""
    shard = split.shard_info(header)
    if shard and shard.number > 0:
        return
    for key, expected in _TYPES.items():
        if header.types.get(key, expected) is not expected:
            message = f"{key} has type {header.types[key].name}, expected {expected.name}"
            yield Finding("gguf.model.key-type", Severity.REJECT, message, key, "use another file")
    not_a_model = _check_is_model(header)
    if not_a_model is not None:
        yield not_a_model
        return
    architecture = header.architecture
    if not architecture:
        message = "general.architecture is missing" if architecture is None else "general.architecture is empty"
        cure = "use a file that was converted with a current llama.cpp"
        yield Finding("gguf.model.architecture", Severity.REJECT, message, "general.architecture", cure)
        return
    known_tensors = tuple(all_tensors) if all_tensors is not None else header.tensors
    complete = shard is None or all_tensors is not None
    if complete and not known_tensors:
        message = "the file contains a vocabulary, but no weights"
        yield Finding("gguf.model.is-vocabulary", Severity.REJECT, message, "byte 8", "use the model itself")
        complete = False
    if known_tensors or not complete:
        yield from tensors.check_names(known_tensors)
        findings = list(hyperparameters.check(header)) if known_tensors else []
        yield from findings
        if complete and not any(finding.severity is Severity.REJECT for finding in findings):
            yield from tensors.check_required(header, known_tensors)
    yield from tokenizer.check(header, embedding_rows=tensors.embedding_rows(header, known_tensors))


def _check_strings(header: Header) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        # the arrays of the tokenizer are checked in `tokenizer`
        if isinstance(value, Array) and value.type is ValueType.STRING and not key.startswith(tokenizer.PREFIX):
            try:
                for item in value.iter_raw():
                    item.decode()
            except UnicodeDecodeError:
                message = f"the array {key[:80]!r} contains a string that is not UTF-8"
                yield Finding("gguf.key.utf8", Severity.REJECT, message, key[:80], "use another file")


def _check_is_model(header: Header) -> Finding | None:
    kind = kind_of(header)
    if kind not in _NOT_A_MODEL:
        return None
    rule, cure = _NOT_A_MODEL[kind]
    return Finding(rule, Severity.REJECT, f"the file is {kind.noun}, not a model", "general.type", cure)
