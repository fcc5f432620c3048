"""Where the bytes of one file are, and what they must be.

A *source* gives addresses; it moves nothing. A file of the Hub and an object in S3 are both a source, so that
everything about speed, resume and verification is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from paddock.model.names import Sha256


@dataclass(frozen=True, slots=True)
class Address:
    """An address that answers range requests for the whole body, and the headers that it needs.

    Both may carry a secret (a signature, a token), so neither is in the repr. Headers belong to this address alone:
    they never follow a redirect to another host.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a body must be. At least one digest, or none where the source knows none: then the digest that was seen is
    recorded, with a warning.

    `git_sha1` is git's digest of a blob object, sha1 over `blob <size>\\0` and the content: the Hub's only digest of a
    small file.
    """

    size: int
    sha256: Sha256 | None = None
    git_sha1: str | None = None

    @property
    def key(self) -> str | None:
        """A safe name for the staging directory: the same for the same bytes; None without a digest."""
        if self.sha256:
            return self.sha256
        return f"git-{self.git_sha1}" if self.git_sha1 else None


@dataclass(frozen=True, slots=True)
class HubLocation:
    """Which file of which Hub it is, for a client that speaks with a Hub itself. The token is not in the repr."""

    endpoint: str
    repository: str
    revision: str
    path: str
    token: str | None = field(repr=False)


class Source(Protocol):
    """One file somewhere. `label` says which, for people (`org/name@0123abcd: model.gguf`), and holds no secret.
    `hub_location` is None where it is in no repository of a Hub.

    `address` may ask the network. With `renew` the last address was refused as expired, and a new one is wanted. It
    raises the errors of `paddock.errors` and no others, is called from several threads, and does not retry for longer
    than one request.
    """

    @property
    def label(self) -> str: ...

    @property
    def expected(self) -> Expected: ...

    @property
    def hub_location(self) -> HubLocation | None: ...

    def address(self, *, renew: bool = False) -> Address: ...
