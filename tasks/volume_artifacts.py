"""Create the Prefect artifacts of the maintenance and the refresh of a volume, and of the remote store.

Keys and contents are as in `tasks.artifacts`. A table has at most 200 rows, and its description says how many there are
in all; what was removed, damaged or left comes before what stayed as it was.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from paddock.lifecycle.eviction.evicted import Evicted
from paddock.lifecycle.upkeep.maintain import Maintained
from paddock.lifecycle.upkeep.orphans import Orphans
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed
from paddock.lifecycle.upkeep.scrub import Scrubbed
from paddock.lifecycle.upkeep.usage import UsageSummary
from paddock.lifecycle.upkeep.volume_use import UseHistory, UseSample
from paddock.model.markdown import as_text
from paddock.model.units import human_bytes, human_time
from tasks.escaped_artifacts import create_page, create_table
from tasks.subject import StoreSubject
from tasks.use_picture import draw

MOST_ROWS = 200
_DAY_S = 24 * 3600


def orphans(subject: StoreSubject, found: Orphans) -> None:
    """Table of the orphans that were found, removed or not, and of foreign files, which are left."""
    rows: list[dict[str, Any]] = [
        {
            "what": orphan.kind,
            "path": orphan.path,
            "size": human_bytes(orphan.bytes),
            "age": _age(orphan.age_s),
            "done": "removed" if orphan.removed else "left: it is too young, or in use",
        }
        for orphan in sorted(found.rows, key=lambda orphan: not orphan.removed)
    ]
    rows += [
        {"what": "", "path": "", "size": "", "age": "", "done": f"failed: {problem}"} for problem in found.problems
    ]
    rows += [
        {"what": "foreign", "path": path, "size": "", "age": "", "done": "left: it is not Paddock's"}
        for path in found.foreign
    ]
    rows = rows or [{"what": "nothing", "path": "", "size": "", "age": "", "done": ""}]
    create_table(
        key=subject.key("orphans"), rows=_bounded(rows), description=_described(f"{subject.name}: {found.line}", rows)
    )


def scrub(subject: StoreSubject, scrubbed: Scrubbed | None) -> None:
    """Table of the damaged blobs, with their segments, and whether each was repaired. None: nothing was scrubbed."""
    if scrubbed is None:
        return
    rows: list[dict[str, Any]] = [
        {
            "snapshot": file.id.short,
            "file": file.path,
            "found": file.damage,
            "done": f"repaired, {human_bytes(file.repaired_bytes)} transferred" if file.ok else "not repaired",
            "sha256": file.sha256,
        }
        for file in sorted(scrubbed.damaged, key=lambda file: file.ok)
    ]
    rows += [
        {"snapshot": "", "file": "", "found": problem, "done": "not repaired", "sha256": ""}
        for problem in scrubbed.problems
    ]
    rows = rows or [{"snapshot": "", "file": "", "found": "no damage", "done": "", "sha256": ""}]
    create_table(key=subject.key("scrub"), rows=_bounded(rows), description=_described(scrubbed.line, rows))


def eviction(subject: StoreSubject, evicted: Evicted | None) -> None:
    """Table of the snapshots that were evicted, and of those that were kept, each with the reason. None: there was
    nothing to evict from."""
    if evicted is None:
        return
    value = evicted.to_json()
    rows: list[dict[str, Any]] = [
        {
            "model": row["model"],
            "variant": row["variant"],
            "revision": row["revision"][:8],
            "size": human_bytes(row["bytes"]),
            "done": done,
            "why": row["reason"],
        }
        for done, found in (("evicted", value["removed"]), ("kept", value["kept"]))
        for row in found
    ]
    create_table(key=subject.key("eviction"), rows=_bounded(rows), description=_described(evicted.line, rows))


def maintenance(subject: StoreSubject, maintained: Maintained) -> None:
    """The outcome of each step, and the use of the volume over time and by model, as Markdown with a picture."""
    lines = ["| step | took | result |", "|---|---|---|"]
    for outcome in maintained.outcomes:
        result = as_text(outcome.line) if outcome.failure is None else f"**failed:** {as_text(outcome.failure)}"
        lines.append(f"| {as_text(outcome.step)} | {human_time(outcome.seconds)} | {result} |")
    if maintained.history is not None and maintained.history.samples:
        lines += ["", *_use(subject, maintained.history)]
    failed = f", {len(maintained.failures)} failed" if maintained.failures else ""
    create_page(
        key=subject.key("maintenance"),
        markdown="\n".join(lines),
        description=f"Maintenance of {subject.name}: {len(maintained.outcomes)} steps{failed}",
    )


def refresh_report(subject: StoreSubject, refreshed: Refreshed) -> None:
    """The report of a refresh, which is Markdown already."""
    create_page(key=subject.key("refresh-report"), markdown=refreshed.markdown, description=refreshed.line)


def usage(subject: StoreSubject, summary: UsageSummary) -> None:
    """Table of what was used, how often, how long, when, and by which worker."""
    rows: list[dict[str, Any]] = [
        {
            **line.labels,
            **{kind: f"{used.uses}, {human_time(used.seconds)}" for kind, used in line.total.kinds.items()},
            "requests": line.total.usage.requests,
            "tokens": line.total.usage.tokens,
            "first": _time(line.total.first),
            "last": _time(line.total.last),
            "workers": ", ".join(line.total.workers),
            "stored": "removed" if line.removed else "",
        }
        for line in summary.lines
    ]
    create_table(key=subject.key("usage"), rows=_bounded(rows), description=_described(summary.line, rows))


def _use(subject: StoreSubject, history: UseHistory) -> list[str]:
    """The picture, as an image within the text: Prefect shows the URL of an image artifact, all of it. Then the use by
    model as a table, for those who do not see colours."""
    title = f"Use of {subject.name}"
    picture = base64.b64encode(draw(history, title=title).encode()).decode()
    lines = [
        f"![{as_text(title)}](data:image/svg+xml;base64,{picture})",
        "",
        "| model | size | share |",
        "|---|--:|--:|",
    ]
    sample = history.samples[-1]
    for name, size in _shares(sample):
        lines.append(f"| {as_text(name)} | {human_bytes(size)} | {size / max(1, sample.used_bytes):.0%} |")
    return lines


def _shares(sample: UseSample) -> list[tuple[str, int]]:
    others = [("other models", sample.other_models_bytes), ("in no snapshot", sample.unused_bytes)]
    return [*sample.models.items(), *((name, size) for name, size in others if size)]


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else ""


def _age(seconds: float) -> str:
    return human_time(seconds) if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.0f} days"


def _bounded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(rows[:MOST_ROWS])


def _described(line: str, rows: Sequence[object]) -> str:
    return f"{line}; the first {MOST_ROWS} of {len(rows)} rows" if len(rows) > MOST_ROWS else line
