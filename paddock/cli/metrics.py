"""The command metrics: print what Prometheus collects of this machine and its volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paddock.cli.options import Json, make_clients, require_volume
from paddock.cli.output import print_result
from paddock.errors import NoPermission


def metrics(
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write them to a file, which is replaced as a whole."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Print metrics of this machine and its volume in Prometheus's text format.

    For node_exporter's textfile collector, write them to a file whose name ends in .prom.
    """
    from paddock.lifecycle.upkeep.worker_metrics import read_worker_metrics
    from paddock.store.durable import write_atomically

    clients = make_clients()
    require_volume(clients.volume)
    found = read_worker_metrics(clients)
    if output is not None:
        try:
            write_atomically(output, found.text.encode(), sync=False)
        except OSError as error:
            raise NoPermission(
                f"{output} cannot be written: {error.strerror}",
                cure="name a file in a directory that exists, and that this user may write to",
            ) from None
    payload = {**found.to_json(), "output": str(output) if output else None}
    print_result(as_json, payload, lambda: None if output else typer.echo(found.text, nl=False))
    return 0
