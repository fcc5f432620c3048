"""Define the options and arguments that commands share, and make the clients from the environment."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from paddock import timings
from paddock.cli.logs import convert_other_handlers
from paddock.errors import NoPermission, NotOnVolume

if TYPE_CHECKING:
    from paddock.lifecycle.clients import Clients
    from paddock.settings import StoredSecret
    from paddock.store.volume import Volume

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="org/name[:VARIANT][@REVISION], an address of the Hub, or a path on the volume."
    ),
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


def _start_timings(requested: bool) -> None:
    if requested:
        timings.start()


def timed(
    timings: Annotated[
        bool,
        typer.Option(
            "--timings",
            is_eager=True,
            callback=_start_timings,
            expose_value=False,
            help="Print the seconds of each phase on stderr; with --json, in the object.",
        ),
    ] = False,
) -> None:
    """A command with the option that each one in `paddock.cli.commands.TIMED` gets."""


class ProfileName(StrEnum):
    CHAT = "chat"
    ROLEPLAY = "roleplay"


def make_clients(*, limit_rate: str | None = None, stored: Mapping[str, StoredSecret] | None = None) -> Clients:
    """Make the clients from the environment. `limit_rate` is a number of bytes per second, such as `20MB`, and replaces
    that of the environment. `stored` has secrets that the environment lacks. Raises BadSetting."""
    from dataclasses import replace

    from paddock import settings
    from paddock.lifecycle.clients import connect
    from paddock.model.units import parse_bytes

    loaded = settings.load(stored)
    convert_other_handlers()
    if limit_rate is not None:
        setting, rate = settings.SETTINGS["limit_rate_bytes_per_s"], parse_bytes(limit_rate)
        loaded = replace(loaded, limit_rate_bytes_per_s=setting.read(rate, source="--limit-rate", cure="correct it"))
    return connect(loaded)


def prepare_audit() -> None:
    """Start the process in which chat templates are rendered, for a command that will audit one: it gets ready while
    this process imports its modules and waits for the network. Raises BadSetting."""
    from paddock.chat import sandbox_start

    sandbox_start.prepare()


def prepare_fetch() -> None:
    """Import what checks weights, numpy above all, in a thread: for a command that will fetch a GGUF, and waits for
    servers and processes before."""
    from paddock import settings

    settings.limit_numpy_to_one_thread()

    def import_scan() -> None:
        with suppress(Exception):  # the import where it is needed says what is wrong
            import_module("paddock.gguf.streaming_scan")

    threading.Thread(target=import_scan).start()


def make_volume() -> Volume:
    """The volume of the environment alone, for a command that needs no Hub and no S3. It must be there. Raises
    BadSetting, and as `require_volume`."""
    from paddock import settings
    from paddock.store.volume import Volume

    loaded = settings.load()
    convert_other_handlers()
    volume = Volume(loaded.volume, worker=loaded.worker)
    require_volume(volume)
    return volume


def require_volume(volume: Volume) -> None:
    """Check that there is a volume, so that a mistyped PADDOCK_VOLUME is not taken for an empty one. Raises
    NotOnVolume."""
    root = volume.root
    try:
        exists, is_directory = root.exists(), root.is_dir()
    except OSError as error:
        raise NoPermission(f"{root} cannot be read: {error.strerror}", cure="correct its permissions") from None
    if not is_directory:
        raise NotOnVolume(
            f"{root} is not a directory" if exists else f"there is no {root}",
            cure="set PADDOCK_VOLUME to the volume's directory; `paddock pull MODEL` makes a new one",
        )


def check_quant(text: str) -> None:
    """Raise BadParameter for an empty `--quant`."""
    if not text.strip():
        raise typer.BadParameter("--quant is empty: name a quantization, or leave it out")
