"""Remove what dead processes left on the volume, after a grace period; foreign files are left, and told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.units import counted, human_bytes
from paddock.store.volume import ORPHAN_AGE_S


@dataclass(frozen=True, slots=True)
class OrphanRow:
    """An orphan (`paddock.store.volume.orphans` has the kinds). One that was not removed is younger than the grace
    period, or in use again."""

    kind: str
    path: str
    bytes: int
    age_s: float
    removed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "path": self.path,
            "bytes": self.bytes,
            "age_s": round(self.age_s),
            "removed": self.removed,
        }


@dataclass(frozen=True, slots=True)
class Orphans:
    """The result of a clean-up. `foreign` are paths that Paddock did not make, and that stay; `problems` are failed
    removals."""

    rows: tuple[OrphanRow, ...]
    foreign: tuple[str, ...]
    problems: tuple[str, ...] = ()

    @property
    def freed_bytes(self) -> int:
        return sum(row.bytes for row in self.rows if row.removed)

    def without_blobs(self) -> Orphans:
        """The others: an eviction removes blobs itself."""
        return replace(self, rows=tuple(row for row in self.rows if row.kind != "blob"))

    @property
    def line(self) -> str:
        removed = sum(row.removed for row in self.rows)
        kept = len(self.rows) - removed
        line = f"{counted(removed, 'orphan')} removed, {human_bytes(self.freed_bytes)} freed, {kept} younger kept"
        return f"{line}, {counted(len(self.foreign), 'foreign file')} left" if self.foreign else line

    def to_json(self) -> dict[str, Any]:
        return {
            "orphans": [row.to_json() for row in self.rows],
            "foreign": list(self.foreign),
            "problems": list(self.problems),
            "freed_bytes": self.freed_bytes,
        }


def _warnings(orphans: Orphans) -> tuple[str, ...]:
    return (
        *(f"{path} was not made by Paddock, and is left where it is" for path in orphans.foreign),
        *orphans.problems,
    )


@step(Kind.LOCAL, "clean-orphans", line=lambda orphans: orphans.line, warnings=_warnings)
def clean_orphans(clients: Clients, *, grace_s: float = ORPHAN_AGE_S, dry_run: bool = False) -> Orphans:
    """Remove the orphans of the volume that are older than `grace_s` seconds, and list the others. With `dry_run`,
    nothing is removed, and `removed` says what would be."""
    rows: list[OrphanRow] = []
    problems: list[str] = []
    for orphan in clients.volume.orphans.find():
        removed = False
        if orphan.age_s > grace_s:
            try:
                removed = dry_run or clients.volume.orphans.remove(orphan)
            except PaddockError as error:
                problems.append(error.message)
        rows.append(OrphanRow(orphan.kind, str(orphan.path), orphan.bytes, orphan.age_s, removed))
    foreign = tuple(str(path) for path in clients.volume.orphans.foreign())
    return Orphans(tuple(rows), foreign, tuple(problems))
