"""A catalog that is an object of a remote store, `s3://bucket/key`: how it is read and replaced.

It is read with the client of the remote store. It is replaced only where it is still the one that was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from paddock.errors import BadSetting, NoSuchFile, StoreRefused, StoreUnavailable
from paddock.lifecycle.catalog.check import MAX_BYTES
from paddock.lifecycle.clients import open_remote_store
from paddock.settings import Settings
from paddock.store.remote import Objects, ObjectStore
from paddock.store.remote.conditional_writes import ConditionalWrites

_SETTING: Final = "PADDOCK_CATALOG"


@dataclass(frozen=True)
class CatalogObject:
    """The object at `address`. Its constructor sends no request."""

    address: str
    settings: Settings

    def __str__(self) -> str:
        return self.address

    def read(self) -> bytes:
        """The content, or the beginning of one that is too large. Raises NoSuchFile, StoreUnavailable, StoreRefused and
        BadSetting."""
        content, tag = self.read_with_tag()
        if tag is None:
            raise NoSuchFile(
                f"there is no catalog {self}", cure=f"`paddock catalog add MODEL` makes one; or correct {_SETTING}"
            )
        return content

    def read_with_tag(self) -> tuple[bytes, str | None]:
        """(the content, the tag that identifies it); empty and None where there is no such object."""
        with self._errors("read"):
            found = self._objects.get(self._key)
        return (b"", None) if found is None else (found.content[: MAX_BYTES + 1], found.tag)

    def replace(self, content: bytes, *, tag: str | None) -> None:
        """Write the content in place of the one with this tag; with None, make the object. Raises StoreUnavailable
        where another one was written meanwhile."""
        with self._errors("written"):
            written = ConditionalWrites(self._objects).put_if(self._key, content, tag=tag)
        if written is None:
            raise StoreUnavailable(
                f"the catalog {self} was changed by another writer at the same moment, and stays as that one wrote it",
                cure="run the command again",
            )

    @cached_property
    def _objects(self) -> Objects:
        """The client of the objects beside the catalog."""
        store = open_remote_store(self.address.rpartition("/")[0], self.settings, setting=_SETTING)
        if not isinstance(store, ObjectStore):
            raise BadSetting(f"{_SETTING} is not usable: {self} is in no object store", cure="name a file")
        return store.objects

    @property
    def _key(self) -> str:
        return self.address.rpartition("/")[2]

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """Say in the errors of a block that they are about the catalog, and which setting to correct."""
        try:
            yield
        except (StoreUnavailable, StoreRefused) as error:
            cure = error.cure.replace("PADDOCK_S3_URI", _SETTING)
            raise type(error)(f"the catalog {self} cannot be {done}: {error.message}", cure=cure) from None
