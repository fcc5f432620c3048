"""Command gc: remove what nothing needs from the volume or from S3, down to a budget."""

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
    in_s3: Annotated[bool, typer.Option("--s3", help="Clean up S3 instead of the volume.")] = False,
    as_json: Json = False,
) -> int:
    """Remove what nothing needs, down to a budget."""
    from paddock.cli.render import render_evicted
    from paddock.cli.render_upkeep import render_orphans
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.upkeep import volume_use
    from paddock.lifecycle.upkeep.evict import evict
    from paddock.lifecycle.upkeep.orphans import clean_orphans
    from paddock.lifecycle.upkeep.remote_eviction import evict_remote
    from paddock.model.units import parse_budget, parse_bytes

    clients = make_clients()
    require_volume(clients.volume)
    if in_s3:
        require_remote(clients)
        size = None if keep_bytes is None else parse_bytes(keep_bytes)
        of_s3 = evict_remote(clients, keep_bytes=size, dry_run=dry_run)
        if of_s3 is None:
            raise AssertionError("there is a remote store")
        print_result(as_json, of_s3.to_json(), lambda: render_evicted(of_s3))
        return 0
    budget_bytes = None
    if keep_bytes is not None:
        budget_bytes = parse_budget(keep_bytes, of_bytes=clients.volume.disk.total_bytes())
    evicted = evict(clients, keep_bytes=budget_bytes, dry_run=dry_run)
    leftovers = clean_orphans(clients, dry_run=dry_run).without_blobs()
    if not dry_run:
        volume_use.record(clients)

    def render() -> None:
        render_evicted(evicted)
        render_orphans(leftovers, dry_run=dry_run)

    print_result(as_json, {**evicted.to_json(), "leftovers": leftovers.to_json()}, render)
    return 0
