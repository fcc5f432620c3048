"""How a file is fetched, whatever it is and wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.transfer.backends import Backend

if TYPE_CHECKING:
    from paddock.settings import Settings

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """`span_bytes` is how much one request asks for. None: such a part of a segment that every connection has one, and
    no more than a segment is on its way; with a number as many spans as there are connections."""

    connections: int = 16
    segment_bytes: int = 64 * _MIB
    limit_rate_bytes_per_s: int | None = None
    stall_s: float = 30.0
    engine: Backend = "paddock"
    span_bytes: int | None = None

    @staticmethod
    def of(settings: Settings) -> Options:
        return Options(
            connections=settings.connections,
            segment_bytes=settings.segment_bytes,
            limit_rate_bytes_per_s=settings.limit_rate_bytes_per_s,
            stall_s=settings.stall_s,
            engine=settings.transfer or ("hf_transfer" if settings.hub_transfer else "paddock"),
        )
