"""Check a model that is split into several GGUF files: each shard's metadata, and the complete set.

llama-gguf-split numbers shards from 0 in the metadata and from 1 in file names. The first shard has the model's
metadata; the others may have only the `split.*` keys and tensors. `split.tensors.count` is the number of tensors in
all shards together.
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
_CURE = "download all shards of one revision again"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A shard's position: `number` (from 0) of `count` shards. `tensors` is the declared number of tensors in all
    shards together, or None if the file does not declare it.
    """

    number: int
    count: int
    tensors: int | None


def shard_info(header: Header) -> ShardInfo | None:
    """Return the shard information in a header, or None for a model in one file."""
    count = header.integer("split.count") or 0
    if count <= 1:
        return None
    return ShardInfo(header.integer("split.no") or 0, count, header.integer("split.tensors.count"))


def check(header: Header) -> Iterator[Finding]:
    """Check the `split.*` keys of one file."""
    for key, expected in _TYPES.items():
        if key in header.types and header.types[key] is not expected:
            yield _reject(
                "gguf.split.key-type", f"{key} has type {header.types[key].name}, expected {expected.name}", key
            )
    shard = shard_info(header)
    if shard is None:
        return
    if "split.no" not in header.metadata:
        yield _reject(
            "gguf.split.number",
            f"the file is one of {shard.count} shards, but does not have its shard number",
            "split.no",
        )
    if not 0 <= shard.number < shard.count:
        yield _reject(
            "gguf.split.number", f"the shard number is {shard.number}, expected 0 to {shard.count - 1}", "split.no"
        )
    if shard.tensors is not None and shard.tensors < len(header.tensors):
        message = f"{shard.tensors} tensors are declared for all shards, but this shard alone has {len(header.tensors)}"
        yield _reject("gguf.split.tensors", message, "split.tensors.count")


def check_set(headers: Sequence[Header], names: Sequence[str]) -> Iterator[Finding]:
    """Check all shards of one model together, given in the order in which the engine reads them."""
    shards = [shard_info(header) for header in headers]
    first = shards[0]
    declared = first.count if first else 1
    for name, shard in zip(names, shards, strict=True):
        count = shard.count if shard else 1
        if count != declared:
            yield _reject(
                "gguf.split.count", f"{name} is one of {count} shards, but {names[0]} is one of {declared}", name
            )
    numbers = [shard.number if shard else 0 for shard in shards]
    if numbers != list(range(declared)):
        found = ", ".join(map(str, numbers[:12]))
        yield _reject(
            "gguf.split.number",
            f"expected shards 0 to {declared - 1} once each, in order, but found {found}",
            names[0],
        )
    total = sum(len(header.tensors) for header in headers)
    if first and first.tensors is not None and first.tensors != total:
        yield _reject(
            "gguf.split.tensors", f"{first.tensors} tensors are declared, but the shards have {total}", names[0]
        )
    seen: dict[str, str] = {}
    for name, header in zip(names, headers, strict=True):
        for tensor in header.tensors:
            if tensor.name in seen:
                yield _reject(
                    "gguf.split.duplicate-tensor",
                    f"the tensor {tensor.name!r} is in both {seen[tensor.name]} and {name}",
                    name,
                )
                return
            seen[tensor.name] = name


def _reject(rule: str, message: str, where: str) -> Finding:
    return Finding(rule, Severity.REJECT, message, where, _CURE)
