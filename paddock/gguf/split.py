"""A model in several GGUFs: what each shard says of the whole, and whether they make one.

llama-gguf-split numbers shards from 0 in the metadata and from 1 in the names. The first carries the metadata; the
others may have nothing but `split.*` and tensors. `split.tensors.count` is the number of tensors of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddock.gguf.format import ValueType
from paddock.gguf.header import Header
from paddock.model.finding import Finding, Severity

_TYPES = {
    "split.no": ValueType.UINT16,
    "split.count": ValueType.UINT16,
    "split.tensors.count": ValueType.INT32,
}
_CURE = "fetch all shards of one revision again"


@dataclass(frozen=True, slots=True)
class Split:
    """Which shard a file is: `number` from 0, of `count`, with `tensors` in all of them (None where the file does not
    say).
    """

    number: int
    count: int
    tensors: int | None


def split_of(header: Header) -> Split | None:
    """What the header says of its place in a split model; None for a model in one file."""
    count = header.integer("split.count") or 0
    if count <= 1:
        return None
    return Split(header.integer("split.no") or 0, count, header.integer("split.tensors.count"))


def check(header: Header) -> Iterator[Finding]:
    """The rules of the `split.*` keys of one file."""
    for key, expected in _TYPES.items():
        if key in header.types and header.types[key] is not expected:
            yield _reject("gguf.split.key-type", f"{key} is of type {header.types[key].name}, not {expected.name}", key)
    split = split_of(header)
    if split is None:
        return
    if "split.no" not in header.metadata:
        yield _reject(
            "gguf.split.number", f"the file says that it is one of {split.count} shards, and not which", "split.no"
        )
    if not 0 <= split.number < split.count:
        yield _reject(
            "gguf.split.number", f"the file is shard {split.number} of {split.count}, counted from 0", "split.no"
        )
    if split.tensors is not None and split.tensors < len(header.tensors):
        message = f"all shards together have {split.tensors} tensors, and this one has {len(header.tensors)}"
        yield _reject("gguf.split.tensors", message, "split.tensors.count")


def check_set(headers: Sequence[Header], names: Sequence[str]) -> Iterator[Finding]:
    """The rules of all shards of one model, in the order in which the engine reads them."""
    splits = [split_of(header) for header in headers]
    first = splits[0]
    declared = first.count if first else 1
    for name, split in zip(names, splits, strict=True):
        count = split.count if split else 1
        if count != declared:
            yield _reject(
                "gguf.split.count", f"{name} is one of {count} shards, and {names[0]} one of {declared}", name
            )
    numbers = [split.number if split else 0 for split in splits]
    if numbers != list(range(declared)):
        there = ", ".join(map(str, numbers[:12]))
        yield _reject(
            "gguf.split.number",
            f"shards 0 to {declared - 1} are expected once each, in order; there are {there}",
            names[0],
        )
    total = sum(len(header.tensors) for header in headers)
    if first and first.tensors is not None and first.tensors != total:
        yield _reject(
            "gguf.split.tensors", f"{first.tensors} tensors are declared, and the shards have {total}", names[0]
        )
    seen: dict[str, str] = {}
    for name, header in zip(names, headers, strict=True):
        for tensor in header.tensors:
            if tensor.name in seen:
                yield _reject(
                    "gguf.split.duplicate-tensor", f"{tensor.name!r} is in {seen[tensor.name]} and in {name}", name
                )
                return
            seen[tensor.name] = name


def _reject(rule: str, message: str, where: str) -> Finding:
    return Finding(rule, Severity.REJECT, message, where, _CURE)
