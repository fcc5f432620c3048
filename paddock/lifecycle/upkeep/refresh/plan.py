"""The plan of a refresh: what is to be done for each entry of the catalog, and why. Nothing is done here.

`paddock.lifecycle.upkeep.refresh.facts` finds out what a plan is made of, `decide` decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from paddock.gguf.difference import HeaderDifference
from paddock.lifecycle.catalog import CatalogEntry
from paddock.lifecycle.upkeep.refresh.record import EntryRecord, Fingerprint
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Variant
from paddock.model.units import counted, human_bytes


class Action(StrEnum):
    """The action for an entry.

    keep           nothing
    retag          the commit moved, and the chosen files did not: a new snapshot of the same files, for no bytes
    template-only  the chat template of the model file changed, by its header
    metadata-only  other metadata of the model file, or a small file beside it
    fetch          other tensors, or nothing of it is here yet
    withdrawn      the Hub does not have it any more, under this name and for this token
    blocked        it cannot be decided or done now
    """

    KEEP = "keep"
    RETAG = "retag"
    TEMPLATE_ONLY = "template-only"
    METADATA_ONLY = "metadata-only"
    FETCH = "fetch"
    WITHDRAWN = "withdrawn"
    BLOCKED = "blocked"


_CHANGES = frozenset({Action.RETAG, Action.TEMPLATE_ONLY, Action.METADATA_ONLY, Action.FETCH})


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """The plan for an entry, and its reason.

    `model` is its name on the Hub, `variant` the one that it stands for now, `revision` the commit that its channel is
    at; the last two are None where they are not known. `bytes` is an estimate of what comes over the network, None
    where nothing is to be fetched or it is not known. `difference` is that of the headers of the promoted file and the
    new one. `moves_default`: its promotion moves the model's default variant. `measure`: what is promoted was measured
    with another engine. `remember`: what the plan found is to be recorded, since it cost more than a request: what
    `auto` stands for, or that the commit cannot be used. `rolled_back`: the commit was promoted, and rolled back.
    `fingerprint` is for the next record, and `record` the last one.
    """

    entry: CatalogEntry
    action: Action
    reason: str
    variant: Variant | None = None
    revision: Revision | None = None
    bytes: int | None = None
    difference: HeaderDifference | None = None
    moves_default: bool = False
    measure: bool = False
    remember: bool = False
    rolled_back: bool = False
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    record: EntryRecord | None = None
    hub_name: ModelName | None = None

    @property
    def model(self) -> ModelName:
        return self.hub_name or self.entry.model

    @property
    def instead_of(self) -> Variant | None:
        """The promoted variant whose place `variant` takes, since `auto` chose it instead."""
        if self.entry.wanted_variant is not None or self.record is None:
            return None
        before = self.record.instead_of or self.record.variant
        return before if before != self.variant else None

    @property
    def changes(self) -> bool:
        """Whether a snapshot is to be made and, behind the gates, promoted."""
        return self.action in _CHANGES

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "variant": self.variant or self.entry.variant,
            "channel": self.entry.channel,
            "target": self.entry.target,
            "revision": self.revision,
            "action": self.action.value,
            "reason": self.reason,
            "bytes": self.bytes or 0,
            "difference": list(self.difference.lines()) if self.difference else [],
            "moves_default": self.moves_default,
            "measure": self.measure,
            "seconds": None,
            "outcome": None,
        }


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """The plan for each entry of a catalog, in its order. `catalog` is its file or address. The Hub was sent `requests`
    requests for the plan, and answered with `bytes_read` bytes of model files."""

    entries: tuple[PlannedEntry, ...]
    catalog: str
    requests: int = 0
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def changed(self) -> tuple[PlannedEntry, ...]:
        return tuple(planned for planned in self.entries if planned.changes)

    @property
    def bytes(self) -> int:
        """The estimate of what all entries fetch together."""
        return sum(planned.bytes or 0 for planned in self.entries)

    @property
    def line(self) -> str:
        counts = Counter(planned.action for planned in self.entries)
        actions = [f"{counts[action]} {action.value}" for action in Action if counts[action]]
        fetched = f"; some {human_bytes(self.bytes)} to fetch" if self.bytes else ""
        entries = counted(len(self.entries), "entry", "entries")
        return f"{entries} of {self.catalog}: {', '.join(actions) or 'nothing to do'}{fetched}"

    def to_json(self) -> dict[str, Any]:
        return {
            "catalog": self.catalog,
            "entries": [planned.to_json() for planned in self.entries],
            "bytes": self.bytes,
            "requests": self.requests,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }
