"""Command gc: remove what nothing needs from the volume, down to a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import Json, make_clients, require_volume
from paddock.cli.output import print_result


def collect_garbage(
    keep_bytes: Annotated[
        str | None,
        typer.Option(
            "--keep-bytes",
            metavar="N",
            help="The budget: bytes, a size such as 500GiB, or a share of the disk such as 80%.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Remove what nothing needs, down to a budget."""
    from paddock.cli.render import render_evicted
    from paddock.lifecycle.upkeep.evict import evict
    from paddock.model.units import parse_budget

    clients = make_clients()
    require_volume(clients)
    budget_bytes = None
    if keep_bytes is not None:
        budget_bytes = parse_budget(keep_bytes, of_bytes=clients.volume.disk.total_bytes())
    evicted = evict(clients, keep_bytes=budget_bytes, dry_run=dry_run)
    print_result(as_json, evicted.to_json(), lambda: render_evicted(evicted))
    return 0


COMMANDS = {"gc": collect_garbage}
"""The commands by their names."""
