"""Command on the use of stored snapshots: usage."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.cli.model_argument import parse_stored_model
from paddock.cli.options import Json, make_clients, require_volume
from paddock.cli.output import print_result, to_stdout

if TYPE_CHECKING:
    from paddock.lifecycle.upkeep.usage import UsageSummary

_VERBS = {"serve": "served", "benchmark": "benchmarked", "tune": "tuned", "restore": "restored"}
_NAMED_WORKERS = 3


class By(StrEnum):
    SNAPSHOT = "snapshot"
    MODEL = "model"
    WORKER = "worker"
    DAY = "day"


def usage(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="By default all models.")] = None,
    in_s3: Annotated[bool, typer.Option("--s3", help="Sum up all workers that share S3.")] = False,
    by: Annotated[By, typer.Option("--by", help="What a line stands for.")] = By.SNAPSHOT,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header on stdout.")] = False,
    as_json: Json = False,
) -> int:
    """Show what was served, benchmarked, tuned and restored: how often, how long, and by which worker."""
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.upkeep.usage import summarize_usage

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other: leave one out")
    clients = make_clients()
    if not in_s3:
        require_volume(clients.volume)
    store = require_remote(clients) if in_s3 else None
    wanted = parse_stored_model(clients, model, store) if model is not None else None
    summary = summarize_usage(clients, by=by.value, wanted=wanted, in_remote=in_s3)
    if as_csv:
        with to_stdout():
            typer.echo(summary.to_csv(), nl=False)
    else:
        print_result(as_json, summary.to_json(), lambda: _render(summary))
    return 0


def _render(summary: UsageSummary) -> None:
    from paddock.cli.printing import print_line, print_table
    from paddock.model.units import human_time

    if not summary.lines:
        print_line(f"no use is recorded on {summary.where}")
        return
    columns = [*summary.lines[0].labels, "uses", "time", "requests", "tokens", "first", "last"]
    rows = []
    for line in summary.lines:
        total = line.total
        cells = [text[:8] if name == "revision" else text for name, text in line.labels.items()]
        if line.removed:
            cells[-1] += " (removed)"
        cells += [
            ", ".join(f"{used.uses} {_VERBS[kind]}" for kind, used in total.kinds.items() if used.uses),
            human_time(total.usage.seconds),
            str(total.usage.requests),
            str(total.usage.tokens),
            *(f"{time:%Y-%m-%d}" if time else "" for time in (total.first, total.last)),
        ]
        if summary.by != "worker":
            workers = total.workers
            cells.append(", ".join(workers) if len(workers) <= _NAMED_WORKERS else f"{len(workers)} workers")
        rows.append(cells)
    print_table([*columns, *(["by"] if summary.by != "worker" else [])], rows)
    print_line(summary.line)
