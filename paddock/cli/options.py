"""Options and arguments that commands share: the MODEL argument, options, and the clients from the environment."""

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
NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="org/name[:VARIANT].")]
ContextOption = Annotated[
    int | None, typer.Option("--ctx", metavar="N", min=256, help="Tokens of context that it must fit with.")
]
TargetOption = Annotated[
    str, typer.Option("--target", help="this-machine, any, 64GiB, or cards: rtx-4090, 2x-a100-80gb, 24GiB-gpu.")
]
QuantOption = Annotated[
    str,
    typer.Option(
        "--quant",
        metavar="Q",
        help="A variant, file or quantization, such as Q4_K_M; auto keeps the default's, best ranks anew.",
    ),
]


class ProfileName(StrEnum):
    CHAT = "chat"
    ROLEPLAY = "roleplay"


def make_clients(*, limit_rate: str | None = None) -> Clients:
    from pydantic import ValidationError

    from paddock import settings
    from paddock.lifecycle.clients import connect
    from paddock.model.units import parse_bytes

    known = settings.load()
    if limit_rate is not None:
        given = {"limit_rate_bytes_per_s": parse_bytes(limit_rate)}
        try:
            known = settings.Settings.model_validate({**dict(known), **given})
        except ValidationError as error:
            raise BadSetting(f"--limit-rate is not usable: {error.errors()[0]['msg']}", cure="correct it") from None
    return connect(known)


def check_quant(text: str) -> None:
    """Raise BadParameter for an empty `--quant`."""
    if not text.strip():
        raise typer.BadParameter("--quant is empty: name a quantization, or leave it out")


def parse_model(text: str) -> Reference:
    """Read MODEL. Raises UnsafeName."""
    from paddock.model.reference import Reference

    return Reference.parse(text)


def parse_model_without_revision(text: str) -> Reference:
    """Read MODEL where a revision has no meaning."""
    wanted = parse_model(text)
    if wanted.ref is not None:
        raise typer.BadParameter(f"{text[:200]}: a revision has no place here, only org/name[:VARIANT]")
    return wanted


def find_snapshot(clients: Clients, text: str) -> Manifest:
    """The snapshot on the volume that a MODEL means."""
    from paddock.lifecycle.locate import locate

    return locate(clients, parse_model(text))
