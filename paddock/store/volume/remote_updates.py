"""Pending remote updates: the promotions of a model that the remote store does not have yet.

They are the changes in the model's history after the last finished operation, together with those that an earlier
operation could not send. `.paddock/history/org--name.state.json` keeps both:

    {"upto": "<operation>", "variants": ["Q8_0"], "default": false}
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from paddock.model.names import ModelName
from paddock.model.reference import Variant, parse_variant
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.history import History, Promotion
from paddock.store.volume.layout import Layout
from paddock.untrusted.fields import text_field
from paddock.untrusted.json_text import parse_object

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PendingRemoteUpdates:
    """The changes up to the operation `upto` that the remote store lacks: the variants whose promoted revision
    changed, and whether the default did."""

    variants: frozenset[Variant] = frozenset()
    default: bool = False
    upto: str | None = None

    def then(self, change: Promotion) -> PendingRemoteUpdates:
        """These updates and one later change."""
        variants = self.variants | {change.variant} if change.moves_revision else self.variants
        return PendingRemoteUpdates(variants, self.default or change.moves_default, change.operation)


class RemoteUpdates:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def pending(self, model: ModelName) -> PendingRemoteUpdates:
        """The updates that the remote store lacks."""
        pending = self._read(model)
        for change in _after(self._history(model), pending.upto):
            pending = pending.then(change)
        return pending

    @disk_errors
    def unfinished(self, model: ModelName) -> Promotion | None:
        """The last change, where its operation was not finished."""
        history = self._history(model)
        return history[-1] if _after(history, self._read(model).upto) else None

    @disk_errors
    def finish(self, model: ModelName, pending: PendingRemoteUpdates) -> None:
        """Record that every operation up to `pending.upto` is finished, and which updates the remote store still
        lacks."""
        if pending == self._read(model):
            return
        path = self._layout.remote_updates(model)
        self._layout.make_directory(path.parent)
        text = json.dumps({"upto": pending.upto, "variants": sorted(pending.variants), "default": pending.default})
        durable.replace_content(path, text.encode())
        # A caller who is told of an error repeats the operation, and a rollback that is finished would go back once
        # more. After a power loss the earlier content only makes the next operation send the same updates again.
        with suppress(OSError):
            durable.sync_directory(path.parent)

    def _history(self, model: ModelName) -> list[Promotion]:
        return History(self._layout.history(model), self.root).read()

    def _read(self, model: ModelName) -> PendingRemoteUpdates:
        """The state that `finish` wrote last; empty where the file is missing or damaged."""
        try:
            content = self._layout.read(self._layout.remote_updates(model), max_bytes=_MAX_BYTES)
            value = parse_object(content, max_bytes=_MAX_BYTES)
            variants = frozenset(parse_variant(str(variant)) for variant in value["variants"])
            upto = None if value["upto"] is None else text_field(value, "upto")
            return PendingRemoteUpdates(variants, bool(value["default"]), upto)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):  # UnsafeName is a ValueError
            return PendingRemoteUpdates()


def _after(history: list[Promotion], operation: str | None) -> list[Promotion]:
    """The changes after an operation; all where it is not in the history."""
    index = next((i for i, change in enumerate(history) if change.operation == operation), -1)
    return history[index + 1 :]
