"""The report of a refresh: one Markdown document, for people.

Names, templates and messages come from models and the Hub: all of them are escaped (`paddock.model.markdown`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from paddock.lifecycle.eviction.evicted import Evicted
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.volume_use import UseSample
from paddock.model.markdown import as_text, code, table, verbatim
from paddock.model.units import counted, human_bytes

_MOST_ROWS: Final = 200
_MOST_DIFFERENCES: Final = 20
_MOST_EVICTED: Final = 20
_QUIET: Final = frozenset({RefreshOutcome.UNCHANGED})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The state after a refresh: the use of the volume and of the remote store, what a clean-up of the volume would
    remove, and the promoted snapshots that another engine measured. `problems` are sentences on what is not known."""

    use: UseSample | None = None
    remote_bytes: int | None = None
    evicted: Evicted | None = None
    other_engines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def write_report(
    outcomes: Sequence[EntryOutcome], surroundings: Surroundings, *, at: datetime, catalog: str, line: str
) -> str:
    """The report as Markdown. `line` sums it up."""
    parts = [
        f"# Refresh of {at:%Y-%m-%d %H:%M} UTC",
        f"{as_text(line)}, by the catalog {code(catalog)}.",
        *_entries(outcomes),
        *_held_back(outcomes),
        *_differences(outcomes),
        *_engines(outcomes, surroundings),
        *_space(surroundings),
    ]
    return "\n\n".join(parts) + "\n"


def entry_table(outcomes: Sequence[EntryOutcome]) -> str:
    """A table of entries: what changed, what was done, and how it ended."""
    head = ("entry", "what changed", "action", "outcome", "bytes", "seconds")
    rows = [
        (
            code(outcome.name),
            as_text(outcome.change),
            outcome.action.value,
            _outcome(outcome),
            "?" if outcome.bytes is None else human_bytes(outcome.bytes),
            f"{outcome.seconds:.1f}",
        )
        for outcome in outcomes[:_MOST_ROWS]
    ]
    return table(head, rows)


def _outcome(outcome: EntryOutcome) -> str:
    name = f"**{outcome.outcome.value}**" if outcome.has_failed else outcome.outcome.value
    return name if outcome.reason == outcome.change else f"{name}: {as_text(outcome.reason)}"


def _entries(outcomes: Sequence[EntryOutcome]) -> Iterator[str]:
    shown = [outcome for outcome in outcomes if outcome.outcome not in _QUIET]
    shown.sort(key=lambda outcome: not (outcome.has_failed and outcome.required))
    unchanged = len(outcomes) - len(shown)
    if shown:
        yield entry_table(shown)
    if len(shown) > _MOST_ROWS:
        yield f"{len(shown) - _MOST_ROWS} more are not shown."
    if unchanged:
        yield f"{counted(unchanged, 'entry is', 'entries are')} unchanged."


def _held_back(outcomes: Sequence[EntryOutcome]) -> Iterator[str]:
    for outcome, title in ((RefreshOutcome.HELD_BACK, "Held back"), (RefreshOutcome.WAITING, "Waiting for approval")):
        found = [one for one in outcomes if one.outcome is outcome]
        if found:
            yield f"## {title}"
            yield "\n".join(f"- {code(one.name)}{_at(one)}: {as_text(one.reason)}" for one in found[:_MOST_ROWS])


def _at(outcome: EntryOutcome) -> str:
    return f" at {code(outcome.revision[:8])}" if outcome.revision else ""


def _differences(outcomes: Sequence[EntryOutcome]) -> Iterator[str]:
    found = [one for one in outcomes if one.difference and any(True for _ in one.difference.lines())]
    if found:
        yield "## What differs"
    for outcome in found[:_MOST_DIFFERENCES]:
        yield f"### {code(outcome.name)}"
        yield verbatim("\n".join(outcome.difference.lines() if outcome.difference else ()))
    if len(found) > _MOST_DIFFERENCES:
        yield f"The differences of {len(found) - _MOST_DIFFERENCES} more are not shown."


def _engines(outcomes: Sequence[EntryOutcome], surroundings: Surroundings) -> Iterator[str]:
    measured = [one for one in outcomes if one.outcome is RefreshOutcome.MEASURED]
    if measured or surroundings.other_engines:
        yield "## Engine"
    if measured:
        yield "\n".join(f"- {code(one.name)} was measured anew: {as_text(one.reason)}" for one in measured[:_MOST_ROWS])
    if surroundings.other_engines:
        yield "Promoted, and measured with another engine:"
        yield "\n".join(f"- {as_text(line)}" for line in surroundings.other_engines[:_MOST_ROWS])


def _space(surroundings: Surroundings) -> Iterator[str]:
    yield "## Space"
    lines = []
    if surroundings.use is not None:
        lines.append(f"- The volume: {surroundings.use.line}")
    if surroundings.remote_bytes is not None:
        lines.append(f"- S3: {human_bytes(surroundings.remote_bytes)} used")
    if surroundings.evicted is not None:
        lines.append(f"- `paddock gc`: {as_text(surroundings.evicted.line)}")
        rows = surroundings.evicted.removed
        lines += [
            f"  - {as_text(f'{row.id.short}, {human_bytes(row.bytes)}: {row.reason}')}" for row in rows[:_MOST_EVICTED]
        ]
        if len(rows) > _MOST_EVICTED:
            lines.append(f"  - and {len(rows) - _MOST_EVICTED} more")
    lines += [f"- {as_text(problem)}" for problem in surroundings.problems]
    yield "\n".join(lines)
