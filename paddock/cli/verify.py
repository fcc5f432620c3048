"""The command `verify`: compare stored bytes with their digests, and repair them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.cli.model_argument import find_snapshot, parse_stored_model
from paddock.cli.options import Json, make_clients, require_volume
from paddock.cli.output import print_result

if TYPE_CHECKING:
    from paddock.lifecycle.clients import Clients
    from paddock.lifecycle.upkeep.verify import Verified
    from paddock.store.blob_check import Pace


def verify(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="By default all snapshots.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Transfer damaged segments again.")] = False,
    in_s3: Annotated[bool, typer.Option("--s3", help="Verify S3 instead of the volume.")] = False,
    limit_rate: Annotated[
        str | None,
        typer.Option("--limit-rate", metavar="BYTES", help="The most bytes per second to read, such as 20MB."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Compare every stored byte with its digest."""
    from paddock.cli.render import render_verified
    from paddock.lifecycle.upkeep.verify import verify as verify_snapshots
    from paddock.lifecycle.upkeep.verify import verify_volume
    from paddock.store.blob_check import Pace

    clients = make_clients()
    pace = Pace(limit_bytes_per_s=parse_rate(limit_rate))
    if in_s3:
        verified = _verify_s3(clients, models or [], pace, repair=repair)
    else:
        require_volume(clients.volume)
        if models:
            if repair:
                _restore_manifests(clients, models)
            manifests = [find_snapshot(clients, model) for model in models]
            verified = verify_snapshots(clients, manifests, repair_damage=repair, pace=pace)
        else:
            verified = verify_volume(clients, repair_damage=repair, pace=pace)
    print_result(as_json, verified.to_json(), lambda: render_verified(verified, in_s3=in_s3, repaired=repair))
    return 0 if verified.ok else 2


def _restore_manifests(clients: Clients, models: Sequence[str]) -> None:
    """Write damaged manifests of these models again, so that their snapshots can be read. One that stays damaged is
    reported by whoever reads it."""
    from paddock.lifecycle.upkeep.verify import check_manifests

    for model in {parse_stored_model(clients, model).model for model in models}:
        check_manifests(clients, repair_damage=True, model=clients.volume.spelled(model))


def _verify_s3(clients: Clients, models: Sequence[str], pace: Pace, *, repair: bool) -> Verified:
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.locate import locate_in
    from paddock.lifecycle.upkeep.verify_remote import verify_remote

    remote = require_remote(clients)
    cure = "see `paddock ls --s3`"
    named = [parse_stored_model(clients, model, remote) for model in models]
    manifests = [locate_in(remote, clients, wanted, cure=cure) for wanted in named]
    return verify_remote(clients, manifests if models else None, repair_damage=repair, pace=pace)


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
