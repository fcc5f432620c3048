"""Shared by all commands: clients from the environment, the MODEL argument, options, and printing one result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.errors import BadSetting

if TYPE_CHECKING:
    from paddock.lifecycle.parts import Parts
    from paddock.model.artifact import Manifest
    from paddock.model.reference import Reference
    from paddock.store.s3 import S3Store

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


def parts_here(*, limit_rate: str | None = None) -> Parts:
    from pydantic import ValidationError

    from paddock import settings
    from paddock.lifecycle.parts import connect
    from paddock.model.units import parse_bytes

    known = settings.load()
    if limit_rate is not None:
        given = {"limit_rate_bytes_per_s": parse_bytes(limit_rate)}
        try:
            known = settings.Settings.model_validate({**dict(known), **given})
        except ValidationError as error:
            raise BadSetting(f"--limit-rate is not usable: {error.errors()[0]['msg']}", cure="correct it") from None
    return connect(known)


def model_in(text: str) -> Reference:
    """Read MODEL. Raises UnsafeName."""
    from paddock.model.reference import Reference

    return Reference.parse(text)


def without_revision(text: str) -> Reference:
    """Read MODEL where a revision has no meaning."""
    wanted = model_in(text)
    if wanted.ref is not None:
        raise typer.BadParameter(f"{text[:200]}: a revision has no place here, only org/name[:VARIANT]")
    return wanted


def snapshot_in(parts: Parts, text: str) -> Manifest:
    """The snapshot on the volume that a MODEL means."""
    from paddock.lifecycle.locating import locate

    return locate(parts, model_in(text))


def show(as_json: bool, payload: dict[str, Any], render: Callable[[], None]) -> None:
    with to_stdout():
        if as_json:
            print(json.dumps(payload, default=str))
        else:
            render()


def s3_of(parts: Parts) -> S3Store:
    if parts.s3 is None:
        raise BadSetting("PADDOCK_S3_URI is not set: there is no S3", cure="set it to s3://bucket/prefix")
    return parts.s3


@contextmanager
def to_stdout() -> Iterator[None]:
    """What is printed inside arrives, or the process ends here."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer goes nowhere, and is not tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # a reader that had enough is not worth a word
            sys.exit(1)
        sys.exit(failed(False, "", f"stdout cannot be written: {error.strerror}", "send it elsewhere", 1))


def failed(as_json: bool, error: str, message: str, cure: str, status: int) -> int:
    if as_json:
        with to_stdout():
            print(json.dumps({"error": error, "message": message, "cure": cure}))
    else:
        from paddock.terminal import complain

        complain(message, cure)
    return status
