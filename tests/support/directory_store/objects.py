"""Store objects as files of a directory, and serve them over HTTP for downloads."""

from __future__ import annotations

import fcntl
import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from paddock.model.source import Address
from paddock.store.multipart import MultipartReader
from paddock.store.remote import Objects, ObjectStat, StoredObject
from paddock.store.remote.objects import MAX_OBJECT_BYTES
from tests.support.directory_store.http import address_of


class DirectoryObjects(Objects):
    """`root` is the bucket; the tag of an object is the sha256 of its content."""

    connections = 4

    def __init__(self, root: Path, *, label: str, prefix: str = "") -> None:
        self._root = root
        self._home = root / prefix
        self._label = label

    @property
    def label(self) -> str:
        return self._label

    def get(self, key: str) -> StoredObject | None:
        try:
            with (self._home / key).open("rb") as file:
                content = file.read(MAX_OBJECT_BYTES + 1)
            age_s = time.time() - (self._home / key).stat().st_mtime
        except FileNotFoundError:
            return None
        return StoredObject(content, hashlib.sha256(content).hexdigest(), age_s)

    def put(self, key: str, content: bytes) -> None:
        with self._writing(key) as staged:
            staged.write_bytes(content)

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        with self._locked():
            current = self.get(key)
            if (current.tag if current else None) != tag:
                return None
            self.put(key, content)
        return hashlib.sha256(content).hexdigest()

    def delete(self, key: str) -> None:
        (self._home / key).unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectStat | None:
        try:
            content = (self._home / key).read_bytes()
        except FileNotFoundError:
            return None
        return ObjectStat(len(content), hashlib.sha256(content).hexdigest())

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for path in sorted(self._home.rglob("*")):
            key = path.relative_to(self._home).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield key, path.stat().st_size

    def address(self, key: str) -> Address:
        return Address(address_of(self._root) + quote((self._home / key).relative_to(self._root).as_posix()))

    def trials(self, key: str) -> dict[str, Callable[[], str]]:
        return dict.fromkeys(("ETag", "length on HEAD", "checksums", "multipart uploads"), str)

    def upload(
        self,
        key: str,
        reader: MultipartReader,
        *,
        progress: Callable[[int], None],
        keep: Collection[int] = (),
    ) -> int | None:
        sent = 0
        with self._writing(key) as staged, staged.open("wb") as file:
            for part in reader:
                sent += file.write(reader.read(part).body)
                progress(part.length)
        return sent

    @contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        """A staging file, which becomes the object if the block ends without an exception."""
        target = self._home / key
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = self._root.parent / f"{self._root.name}-staging"
        staging.mkdir(exist_ok=True)
        staged = staging / secrets.token_hex(8)
        try:
            yield staged
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root.parent / f"{self._root.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
