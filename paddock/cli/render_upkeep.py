"""Render the results of the commands on upkeep for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paddock.cli.printing import print_line, print_table
from paddock.model.units import counted, human_bytes

if TYPE_CHECKING:
    from paddock.lifecycle.catalog import CheckedCatalog
    from paddock.lifecycle.upkeep.doctor import Diagnosis
    from paddock.lifecycle.upkeep.orphans import Orphans
    from paddock.lifecycle.upkeep.refresh.plan import RefreshPlan
    from paddock.lifecycle.upkeep.refresh.refresh import Refreshed

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}
_ACTION_COLOURS = {"keep": "", "withdrawn": "red", "blocked": "yellow"}


def render_catalog(checked: CheckedCatalog) -> None:
    catalog = checked.catalog
    columns = ("line", "model", "channel", "variant", "target", "default", "context", "profile", "keep", "more")
    rows = [
        (
            str(line),
            str(entry.model),
            entry.channel,
            entry.variant,
            entry.target,
            "yes" if entry.default else "",
            str(entry.context_tokens or ""),
            entry.profile,
            "" if entry.keep is None else str(entry.keep),
            ", ".join(
                [
                    *(["required"] if entry.required else []),
                    *(["approval"] if entry.approval else []),
                    *(f"{gate} {bound:g}" for gate, bound in entry.gates.items()),
                    *(["undecided blocks"] if entry.undecided == "block" else []),
                ]
            ),
        )
        for entry, line in catalog.rows
    ]
    if rows:
        print_table(columns, rows)
    if catalog.prices:
        prices = ", ".join(f"{name} {price:g}" for name, price in catalog.prices.items())
        print_line(f"prices of an hour: {prices}")
    for problem in checked.problems:
        print_line(f"{catalog.name}:{problem.line}:{problem.column}: {problem.message}{_cure(problem.cure)}")
    state = counted(len(checked.problems), "problem") if checked.problems else "valid"
    print_line(f"{catalog.name}: {counted(len(rows), 'entry', 'entries')}, {state}")


def render_orphans(orphans: Orphans, *, dry_run: bool) -> None:
    """Print the orphans that were removed, or would be, and the foreign files."""
    gone = [row for row in orphans.rows if row.removed]
    if gone:
        done = "would go" if dry_run else "removed"
        rows = [(done, row.kind, human_bytes(row.bytes), row.path) for row in gone]
        print_table(("", "left by a dead process", "size", "path"), rows)
    for path in orphans.foreign:
        print_line(f"{path} was not made by Paddock, and is left where it is")
    for problem in orphans.problems:
        print_line(problem)


def render_diagnosis(diagnosis: Diagnosis, fixed: Sequence[str] = ()) -> None:
    """A line for each fix, a row for each check, then the cures of those that are not ok."""
    for line in fixed:
        print_line(line)
    rows = [(check.state, check.name, check.message) for check in diagnosis.checks]
    print_table(("", "check", "found"), rows, styles=[_COLOURS[check.state] for check in diagnosis.checks])
    for check in diagnosis.checks:
        if not check.ok:
            print_line(f"{check.name}: {check.cure}")
    failed = sum(check.state == "failed" for check in diagnosis.checks)
    warned = sum(check.state == "warning" for check in diagnosis.checks)
    print_line(f"{counted(len(rows), 'check')}, {failed} failed, {counted(warned, 'warning')}")


def render_refresh_plan(plan: RefreshPlan) -> None:
    """A row for each entry: what is to be done for it, and why."""
    rows = [
        (
            planned.action.value,
            f"{planned.model}:{planned.variant or planned.entry.variant}",
            human_bytes(planned.bytes) if planned.bytes is not None else "",
            planned.reason,
        )
        for planned in plan.entries
    ]
    if rows:
        styles = [_ACTION_COLOURS.get(action, "green") for action, *_ in rows]
        print_table(("action", "model", "bytes", "reason"), rows, styles=styles)
    for planned in plan.entries:
        if planned.difference and (lines := list(planned.difference.lines())):
            print_line(f"{planned.model}:{planned.variant} changes:")
            for line in lines:
                print_line(f"  {line}")
    print_line(plan.line)


def render_refreshed(refreshed: Refreshed) -> None:
    """A row for each entry that is not unchanged, and where the report is."""
    rows = [
        (
            outcome.outcome.value,
            outcome.name,
            outcome.action.value,
            "" if outcome.bytes is None else human_bytes(outcome.bytes),
            outcome.reason,
        )
        for outcome in refreshed.entries
        if outcome.outcome.value != "unchanged"
    ]
    if rows:
        print_table(("outcome", "model", "action", "bytes", "reason"), rows)
    print_line(refreshed.line)
    if refreshed.report:
        print_line(f"report: {refreshed.report}")


def _cure(cure: str) -> str:
    return f": {cure}" if cure else ""
