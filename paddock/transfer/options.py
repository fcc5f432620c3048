"""Define the options of a file download: connections, segment size, rate limit, stall time, backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.transfer.backends import Backend

if TYPE_CHECKING:
    from paddock.settings import Settings

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `paddock.transfer.fetch.fetch`.

    `connections` parallel range requests; `segment_bytes` for each segment digest; `limit_rate_bytes_per_s` over all
    connections, None for no limit; `stall_s` without progress end a request; `backend` moves the bytes.

    `span_bytes` is the length of one request. None: a segment divided by the connections, so that every connection has
    a span of it and no more than one segment is in flight. A number: as many spans in flight as there are connections.
    """

    connections: int = 16
    segment_bytes: int = 64 * _MIB
    limit_rate_bytes_per_s: int | None = None
    stall_s: float = 30.0
    backend: Backend = "paddock"
    span_bytes: int | None = None

    @staticmethod
    def of(settings: Settings) -> Options:
        return Options(
            connections=settings.connections,
            segment_bytes=settings.segment_bytes,
            limit_rate_bytes_per_s=settings.limit_rate_bytes_per_s,
            stall_s=settings.stall_s,
            backend=settings.transfer or ("hf_transfer" if settings.hub_transfer else "paddock"),
        )
