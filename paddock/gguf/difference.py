"""Tell what differs between the headers of two GGUFs: chat template, tokenizer, other metadata, tensor table.

Whether the data of the tensors differs is not told by a header.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isnan

from paddock.gguf.header import Array, Header, Tensor, Value
from paddock.model.names import printable

_TEMPLATE = "tokenizer.chat_template"
_TOKENIZER = "tokenizer."
_SHOWN_CHARACTERS = 80


class ChangeKind(StrEnum):
    """The largest part that differs."""

    NOTHING = "nothing"
    TEMPLATE = "template"
    METADATA = "metadata"
    TENSORS = "tensors"


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key that differs, with its values as people read them; None where a file does not have it."""

    key: str
    before: str | None
    after: str | None

    @property
    def line(self) -> str:
        if self.before is None:
            return f"{self.key} is new: {self.after}"
        if self.after is None:
            return f"{self.key} is gone; it was {self.before}"
        return f"{self.key}: {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class HeaderDifference:
    """The differences of two headers. `template` is a unified diff of each chat template that differs; `tensors` has a
    line for each tensor of the table that was added, removed, or has another shape or type."""

    keys: tuple[KeyChange, ...]
    template: tuple[str, ...]
    tensors: tuple[str, ...]

    @property
    def kind(self) -> ChangeKind:
        if self.tensors:
            return ChangeKind.TENSORS
        if self.keys:
            return ChangeKind.METADATA
        return ChangeKind.TEMPLATE if self.template else ChangeKind.NOTHING

    @property
    def tokenizer(self) -> bool:
        """Whether the tokenizer differs."""
        return any(change.key.startswith(_TOKENIZER) for change in self.keys)

    def lines(self) -> Iterator[str]:
        """The differences, one a line; a template's as a unified diff."""
        for change in self.keys:
            yield change.line
        yield from self.template
        yield from self.tensors


def compare_headers(before: Header, after: Header) -> HeaderDifference:
    """Compare two headers. The order of keys and tensors does not count, nor where the tensors lie."""
    keys: list[KeyChange] = []
    template: list[str] = []
    for key in sorted({*before.metadata, *after.metadata}):
        old, new = before.metadata.get(key), after.metadata.get(key)
        if _same(old, new) and before.types.get(key) == after.types.get(key):
            continue
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."):
            template += _template_lines(key, old, new)
        else:
            keys.append(KeyChange(printable(key), _shown(old), _shown(new)))
    return HeaderDifference(tuple(keys), tuple(template), tuple(_tensor_lines(_table(before), _table(after))))


def _same(old: Value | None, new: Value | None) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return old == new or (isnan(old) and isnan(new))
    if isinstance(old, Array) and isinstance(new, Array):
        return (old.type, old.count, bytes(old.prefix[old.start : old.end])) == (
            new.type,
            new.count,
            bytes(new.prefix[new.start : new.end]),
        )
    return old == new


def _shown(value: Value | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, Array):
        return f"{value.count} {value.type.name.lower()} values"
    text = printable(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"


def _template_lines(key: str, old: Value | None, new: Value | None) -> Iterator[str]:
    before, after = (text.splitlines() if isinstance(text, str) else [] for text in (old, new))
    for line in difflib.unified_diff(before, after, f"{key} before", f"{key} after", lineterm=""):
        yield line if line.isprintable() else repr(line)


def _table(header: Header) -> Mapping[str, Tensor]:
    return {tensor.name: tensor for tensor in header.tensors}


def _tensor_lines(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        shown = printable(name)
        if old is None and new is not None:
            yield f"tensor {shown} is new: {_described(new)}"
        elif new is None and old is not None:
            yield f"tensor {shown} is gone; it was {_described(old)}"
        elif old is not None and new is not None and (old.shape, old.type) != (new.shape, new.type):
            yield f"tensor {shown}: {_described(old)} -> {_described(new)}"


def _described(tensor: Tensor) -> str:
    return f"{tensor.type.name} {'x'.join(map(str, tensor.shape))}"
