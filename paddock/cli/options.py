"""Define the options and arguments that commands share, and make the clients from the environment."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.errors import BadSetting

if TYPE_CHECKING:
    from paddock.lifecycle.clients import Clients
    from paddock.model.artifact import Manifest
    from paddock.model.reference import Reference

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="org/name[:VARIANT][@REVISION]; a branch, tag or commit.")
]
ContextOption = Annotated[
    int | None, typer.Option("--ctx", metavar="N", min=256, help="Tokens of context that must fit.")
]
TargetOption = Annotated[
    str,
    typer.Option("--target", help="The machine to fit: this-machine, any, 64GiB, rtx-4090, 2x-a100-80gb, 24GiB-gpu."),
]
QuantOption = Annotated[
    str,
    typer.Option(
        "--quant",
        metavar="Q",
        help="A variant, file or quantization (Q4_K_M); auto keeps the default variant, best takes the best fit.",
    ),
]


class ProfileName(StrEnum):
    CHAT = "chat"
    ROLEPLAY = "roleplay"


def make_clients(*, limit_rate: str | None = None) -> Clients:
    """Make the clients from the environment. `limit_rate` is a number of bytes per second, such as `20MB`, and replaces
    that of the environment. Raises BadSetting."""
    from pydantic import ValidationError

    from paddock import settings
    from paddock.lifecycle.clients import connect
    from paddock.model.units import parse_bytes

    loaded = settings.load()
    if limit_rate is not None:
        override = {"limit_rate_bytes_per_s": parse_bytes(limit_rate)}
        try:
            loaded = settings.Settings.model_validate({**dict(loaded), **override})
        except ValidationError as error:
            raise BadSetting(f"--limit-rate is not usable: {error.errors()[0]['msg']}", cure="correct it") from None
    return connect(loaded)


def check_quant(text: str) -> None:
    """Raise BadParameter for an empty `--quant`."""
    if not text.strip():
        raise typer.BadParameter("--quant is empty: name a quantization, or leave it out")


def parse_model(text: str) -> Reference:
    """Parse a MODEL argument. Raises UnsafeName."""
    from paddock.model.reference import Reference

    return Reference.parse(text)


def find_snapshot(clients: Clients, text: str) -> Manifest:
    """The snapshot on the volume that a MODEL argument names. Raises as `locate`."""
    from paddock.lifecycle.locate import locate

    return locate(clients, parse_model(text))
