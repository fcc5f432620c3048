"""Read a blob of a remote store by byte ranges, as every download does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paddock.model.source import Address, Expected


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob of a remote store as a source of bytes."""

    label: str
    expected: Expected
    make_address: Callable[[], Address]
    hub_location: None = None

    def address(self, *, renew: bool = False) -> Address:  # noqa: ARG002 - every address is new, and costs no request
        return self.make_address()
