"""A remote store on a plain directory: what somebody who adds an object service to Paddock has to write.

`directory://NAME/PREFIX` is the directory PREFIX below that of `ROOTS[NAME]`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from paddock.settings import Settings
from paddock.store.protocol import RemoteStore
from paddock.store.remote import ObjectStore
from tests.support.directory_store.objects import DirectoryObjects

ROOTS: dict[str, Path] = {}


def open_store(uri: str, settings: Settings) -> RemoteStore:
    """The store at an address."""
    parts = urlsplit(uri)
    return ObjectStore(DirectoryObjects(ROOTS[parts.netloc], label=uri, prefix=parts.path.strip("/")))
