"""Protocol for the source of a download: its address, its expected size and digest.

A *source* provides addresses and transfers nothing. Files on the Hub and objects in S3 are sources, so that parallel
transfer, resume and verification are implemented once, in `paddock.transfer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from paddock.model.names import Sha256
from paddock.network import DIRECT, Network, Reach


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that supports range requests, the headers to send, and the network by which to reach it.

    Both may contain a secret (a signature, a token), so neither is in the repr. The headers are for this URL only: they
    must not be sent to another host after a redirect. `commit`: a Hub's answer that names another commit is refused.
    `server`: the URL of the server that the settings name, where a redirect led from it to this one; empty for its own.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: Network = DIRECT
    commit: str | None = None
    server: str = ""

    @property
    def reach(self) -> Reach:
        """The addresses that may be connected to for this URL."""
        return Reach.at(self.server or self.url)


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected size in bytes and digests of a file.

    Without a digest the computed one is recorded, with a warning. `git_sha1` is git's digest of a blob object, the sha1
    of `blob <size>\\0` and the content; the Hub has no other digest of small files.
    """

    size: int
    sha256: Sha256 | None = None
    git_sha1: str | None = None

    @property
    def key(self) -> str | None:
        """A safe name for the staging directory, the same for the same content; None without a digest."""
        if self.sha256:
            return self.sha256
        return f"git-{self.git_sha1}" if self.git_sha1 else None


@dataclass(frozen=True, slots=True)
class HubLocation:
    """The location of a file on a Hub, for clients that use the Hub's API themselves. The token is not in the repr."""

    endpoint: str
    repository: str
    revision: str
    path: str
    token: str | None = field(repr=False)


class Source(Protocol):
    """One file that can be downloaded.

    `label` names it for display (`org/name@0123abcd: model.gguf`) and contains no secret. `hub_location` is None if the
    file is not on a Hub.

    `address` may make a network request, and may be answered with a redirect. `renew` requests a new address, at which
    the bytes themselves are: the last one was refused, or the client cannot follow redirects.
    Implementations must be thread-safe, raise only errors of `paddock.errors`, and not retry for longer than a single
    request takes.
    """

    @property
    def label(self) -> str: ...

    @property
    def expected(self) -> Expected: ...

    @property
    def hub_location(self) -> HubLocation | None: ...

    def address(self, *, renew: bool = False) -> Address: ...
