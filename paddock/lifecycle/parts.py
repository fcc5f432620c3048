"""The clients that the phases of a model's life work with, made once where a program starts, and passed in."""

from __future__ import annotations

from dataclasses import dataclass

from paddock import settings as environment
from paddock.hub import Hub
from paddock.settings import Settings
from paddock.store.s3 import S3Options, S3Store
from paddock.store.volume import Volume


@dataclass(frozen=True, slots=True)
class Parts:
    """`s3` is None where no `PADDOCK_S3_URI` is set: then the volume is the only store."""

    settings: Settings
    hub: Hub
    volume: Volume
    s3: S3Store | None


def connect(settings: Settings | None = None) -> Parts:
    """Make the clients. Dials nothing, touches nothing; raises BadSetting."""
    known = settings or environment.load()
    return Parts(
        settings=known,
        hub=Hub(known),
        volume=Volume(known.volume),
        s3=S3Store(known.s3_uri, options=S3Options.of(known)) if known.s3_uri else None,
    )
