"""Remembered refs: the commit that each branch or tag of a model had when the Hub last answered, and renamed models.

They are in `.paddock/refs/org--name.json`, by the name that was asked for:

    {"model": "org/name", "refs": {"main": {"revision": "<40 hex>", "seen_at": "<ISO 8601 in UTC>"}}}

`model` is the Hub's own name of the repository. Where it differs from the file's, the refs are in the other file. If
two processes remember at the same time, one ref may be lost; the next answer of the Hub adds it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.model.names import ModelName, Revision, parse_revision
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.volume.layout import Layout
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import parse_time
from paddock.untrusted.json_text import parse_object

_MAX_BYTES = 1024 * 1024
_MAX_REFS = 1000


@dataclass(frozen=True, slots=True)
class SeenRef:
    """The commit that a branch or tag had on the Hub at `seen_at`."""

    revision: Revision
    seen_at: datetime


class RememberedRefs:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def of(self, model: ModelName) -> dict[str, SeenRef]:
        """The remembered branches and tags of a model, the one that was seen last at the end."""
        refs = self._read(model).get("refs")
        seen = {name: _parse(value) for name, value in refs.items()} if isinstance(refs, dict) else {}
        return {name: ref for name, ref in seen.items() if ref is not None}

    @disk_errors
    def remember(self, model: ModelName, ref: str, revision: Revision) -> None:
        """Remember the commit of a branch or tag, by the Hub's own name of the model."""
        refs = self.of(model)
        refs.pop(ref, None)
        refs[ref] = SeenRef(revision, datetime.now(UTC))
        rows = {
            name: {"revision": seen.revision, "seen_at": seen.seen_at.isoformat(timespec="seconds")}
            for name, seen in list(refs.items())[-_MAX_REFS:]
        }
        self._write(model, {"model": str(model), "refs": rows})

    @disk_errors
    def remember_name(self, requested: ModelName, model: ModelName) -> None:
        """Remember that the Hub calls the model `requested` by another name."""
        if self.renamed(requested) != model:
            self._write(requested, {"model": str(model), "refs": {}})

    @disk_errors
    def renamed(self, model: ModelName) -> ModelName | None:
        """The Hub's own name of a model, where that is known to be another one."""
        try:
            name = ModelName.parse(str(self._read(model)["model"]))
        except (KeyError, ValueError):  # UnsafeName is a ValueError
            return None
        return name if name != model else None

    def _read(self, model: ModelName) -> dict[str, object]:
        """The content of a model's file; empty where it is missing or damaged."""
        try:
            return parse_object(self._layout.read(self._layout.refs(model), max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError, UnusableContent):
            return {}

    def _write(self, model: ModelName, value: dict[str, object]) -> None:
        path = self._layout.refs(model)
        self._layout.make_directory(path.parent)
        durable.write_atomically(path, json.dumps(value).encode())


def _parse(value: object) -> SeenRef | None:
    match value:
        case {"revision": str(revision), "seen_at": str(seen_at)}:
            try:
                return SeenRef(parse_revision(revision), parse_time(seen_at))
            except ValueError:  # UnsafeName and UnusableContent are
                return None
        case _:
            return None
