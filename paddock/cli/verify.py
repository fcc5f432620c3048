"""The command `verify`: compare stored bytes with their digests, and repair them."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.model_argument import find_snapshot
from paddock.cli.options import Json, make_clients, require_volume
from paddock.cli.output import print_result


def verify(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="By default all snapshots.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch damaged segments again.")] = False,
    limit_rate: Annotated[
        str | None,
        typer.Option("--limit-rate", metavar="BYTES", help="The most bytes per second to read, such as 20MB."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Compare every stored byte with its digest."""
    from paddock.cli.render import render_verified
    from paddock.lifecycle.upkeep import verify as verification
    from paddock.store.blob_check import Pace

    clients = make_clients()
    pace = Pace(limit_bytes_per_s=parse_rate(limit_rate))
    require_volume(clients)
    if models:
        manifests = [find_snapshot(clients, model) for model in models]
        verified = verification.verify(clients, manifests, repair_damage=repair, pace=pace)
    else:
        verified = verification.verify_volume(clients, repair_damage=repair, pace=pace)
    print_result(as_json, verified.to_json(), lambda: render_verified(verified, repaired=repair))
    return 0 if verified.ok else 2


def parse_rate(text: str | None) -> int | None:
    """The rate of `--limit-rate`, in bytes per second. Raises BadSetting."""
    from paddock.errors import BadSetting
    from paddock.model.units import parse_bytes

    if text is None:
        return None
    rate = parse_bytes(text)
    if rate < 1:
        raise BadSetting(f"--limit-rate is {text[:40]}, which reads nothing", cure="give at least 1 byte per second")
    return rate


COMMANDS = {"verify": verify}
"""The commands by their names."""
