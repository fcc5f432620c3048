"""A remote store in a plain directory: the code that supporting another object store in Paddock takes.

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
    """The store at a `directory://` URL."""
    parts = urlsplit(uri)
    return ObjectStore(DirectoryObjects(ROOTS[parts.netloc], label=uri, prefix=parts.path.strip("/")))
