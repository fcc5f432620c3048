"""A file of the local Hub as a source, and random content."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.local.hub import HubService
from paddock.errors import PaddockError
from paddock.model.names import Sha256
from paddock.model.source import Address, Expected, HubLocation
from paddock.transfer.options import Options

KIB = 1024
MIB = 1024 * KIB
SMALL = Options(connections=4, segment_bytes=MIB, stall_s=1.0)


@dataclass
class Remote:
    """A source that counts renewals of its address. The first calls raise its `errors`, one each."""

    url: str
    expected: Expected
    label: str = "org/name@0123abcd: model.gguf"
    headers: Mapping[str, str] = field(default_factory=dict)
    hub_location: HubLocation | None = None
    renewals: int = 0
    errors: list[PaddockError] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def address(self, *, renew: bool = False) -> Address:
        with self.lock:
            self.renewals += renew
            if self.errors:
                raise self.errors.pop(0)
        return Address(self.url, self.headers)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256_of(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def git_sha1_of(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def expected(data: bytes) -> Expected:
    return Expected(len(data), sha256_of(data))


def on_hub(hub: HubService, data: bytes, *, name: str = "model.gguf", bytes_expected: Expected | None = None) -> Remote:
    commit = hub.repository("org/name").commit({name: data})
    return Remote(f"{hub.address}/org/name/resolve/{commit}/{name}", bytes_expected or expected(data))
