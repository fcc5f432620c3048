"""Sum up the recorded uses: by snapshot, model, worker or day, of this volume or of all workers that share a store."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.locate import resolve_revision
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.lifecycle.uses import share_usage
from paddock.model.reference import Reference, same_variant
from paddock.model.units import human_time
from paddock.plain_text import csv_cell
from paddock.store.usage import UsageRow, UsageTotal, total_by

_LOG = logging.getLogger(__name__)
SILENT_S = 31 * 24 * 3600.0
"""After this time without usage the object of a worker is merged with those of other silent workers."""
UsageBy = Literal["snapshot", "model", "worker", "day"]
_LABELS: dict[UsageBy, Callable[[UsageRow], tuple[str, ...]]] = {
    "snapshot": lambda row: (str(row.id.model), row.id.variant, row.id.revision),
    "model": lambda row: (str(row.id.model),),
    "worker": lambda row: (row.worker,),
    "day": lambda row: (row.day.isoformat(),),
}
_NAMES: dict[UsageBy, tuple[str, ...]] = {
    "snapshot": ("model", "variant", "revision"),
    "model": ("model",),
    "worker": ("worker",),
    "day": ("day",),
}


@dataclass(frozen=True, slots=True)
class UsageLine:
    """One line of a summary. `labels` say what was summed up; `removed`: a snapshot that is not on the volume now."""

    labels: Mapping[str, str]
    total: UsageTotal
    removed: bool = False

    def to_json(self) -> dict[str, Any]:
        total = self.total
        return {
            **self.labels,
            **total.usage.to_json(),
            "kinds": {kind: {"uses": used.uses, "seconds": used.seconds} for kind, used in total.kinds.items()},
            "first": total.first.isoformat() if total.first else None,
            "last": total.last.isoformat() if total.last else None,
            "workers": list(total.workers),
            "removed": self.removed,
        }

    def to_flat(self) -> dict[str, Any]:
        """Flatten the row for a table, with one value in each field."""
        value = self.to_json()
        kinds = value.pop("kinds")
        flat = {f"{kind}_{name}": number for kind, used in kinds.items() for name, number in used.items()}
        return {**value, "workers": " ".join(value["workers"]), "removed": "yes" if self.removed else "", **flat}


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """What was used, by snapshot, model, worker or day. `where` is the label of the store that it is recorded in."""

    by: UsageBy
    where: str
    lines: tuple[UsageLine, ...]
    total: UsageTotal

    @property
    def line(self) -> str:
        used = self.total.usage
        return (
            f"{len(self.lines)} {self.by}{'' if len(self.lines) == 1 else 's'}, {used.uses} uses,"
            f" {human_time(used.seconds)}; {used.requests} requests, {used.tokens} tokens; {self.where}"
        )

    def to_json(self) -> dict[str, Any]:
        total = UsageLine({}, self.total).to_json()
        del total["removed"]
        return {"by": self.by, "where": self.where, "usage": [line.to_json() for line in self.lines], "total": total}

    def to_csv(self) -> str:
        """One line for each line of the summary, below a line with the names of the columns."""
        out = io.StringIO()
        columns = list(UsageLine(dict.fromkeys(_NAMES[self.by], ""), UsageTotal.of([])).to_flat())
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        for line in self.lines:
            writer.writerow({name: csv_cell(v) if isinstance(v, str) else v for name, v in line.to_flat().items()})
        return out.getvalue()


def summarize_usage(
    clients: Clients, *, by: UsageBy = "snapshot", wanted: Reference | None = None, in_remote: bool = False
) -> UsageSummary:
    """Sum up the uses of the volume, or of all workers in the remote store; `wanted`: of one model, variant or
    revision. By day the lines are in order, else what was used last is first.

    Raises BadSetting where no remote store is set, and the errors of the store.
    """
    remote = require_remote(clients) if in_remote else None
    rows = clients.volume.usage.rows() if remote is None else remote.usage()
    if wanted is not None:
        rows = _of_reference(clients, rows, wanted)
    removed = _removed(clients, rows) if remote is None and by == "snapshot" else set()
    lines = [
        UsageLine(dict(zip(_NAMES[by], labels, strict=True)), total, removed=labels in removed)
        for labels, total in total_by(rows, _LABELS[by]).items()
    ]
    if by != "day":
        lines.sort(key=lambda line: line.total.last.timestamp() if line.total.last else 0, reverse=True)
    where = clients.volume.label if remote is None else remote.label
    return UsageSummary(by, where, tuple(lines), UsageTotal.of(rows))


@step(Kind.STORE, "usage", line=lambda summary: summary.line)
def sum_up_usage(clients: Clients, *, by: UsageBy = "snapshot") -> UsageSummary:
    """Add up the records of earlier days, send this worker's to the remote store, merge there those of workers that are
    gone, and sum up those of all workers; where the remote store does not answer, those of the volume."""
    try:
        with clients.volume.recording():
            clients.volume.usage.condense()
    except PaddockError as error:
        _LOG.warning("the usage of earlier days was not added up: %s", error.message)
    share_usage(clients)
    if clients.remote is not None:
        try:
            clients.remote.merge_silent_usage(silent_s=SILENT_S)
            return summarize_usage(clients, by=by, in_remote=True)
        except PaddockError as error:
            _LOG.warning("the usage of other workers is not known: %s", error.message)
    return summarize_usage(clients, by=by)


def _removed(clients: Clients, rows: Sequence[UsageRow]) -> set[tuple[str, ...]]:
    """The labels of the snapshots that are not on the volume any more."""
    stored = {id for model in {row.id.model for row in rows} for id in clients.volume.ids(model)}
    return {_LABELS["snapshot"](row) for row in rows if row.id not in stored}


def _of_reference(clients: Clients, rows: Sequence[UsageRow], wanted: Reference) -> list[UsageRow]:
    """The rows of a model, found ignoring case, and of a variant or revision of it, stored or not."""
    name = str(clients.volume.spelled(wanted.model)).casefold()
    found = [
        row
        for row in rows
        if str(row.id.model).casefold() == name
        and (wanted.variant is None or same_variant(row.id.variant, wanted.variant))
    ]
    if wanted.ref is None or not found:
        return found
    known = [row.id.revision for row in found]
    revision = resolve_revision(clients, found[0].id.model, wanted.ref, known=known)
    return [row for row in found if row.id.revision == revision]
