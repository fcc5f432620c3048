"""Record when the bytes of each blob were last compared with their digest, on the volume and in remote stores.

A record is a file, `.paddock/verified/<ab>/<sha256>-<where>.json`. `<where>` is `volume`, or names a remote store:

    {"at": "2026-05-01T03:00:00+00:00", "tag": "..."}

`tag` is that of the object that was verified: another one says that other bytes were written since. Each record is
replaced as a whole, so that several writers leave the record of one of them. Nothing about bytes rests on a record
alone: it says what to verify next, and which copy may be relied on when another one is removed.

How far a scrub of a store came is in `.paddock/verified/scrub-<where>.json`:

    {"began": "2026-05-01T03:00:00+00:00", "sha256": "...", "identity": "...", "segment": 12, "bad": [3]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

from paddock.model.names import Sha256
from paddock.store.durable import disk_errors, write_atomically
from paddock.store.manifests import check_report_name
from paddock.store.volume.layout import ON_VOLUME, Layout
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import count_field, text_field, time_field
from paddock.untrusted.json_text import parse_object

_MAX_BYTES = 1024 * 1024
_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Verification:
    """A successful comparison of a blob with its digest. `tag`: of the object in a remote store, None on the volume."""

    at: datetime
    tag: str | None = None


def in_remote(label: str) -> str:
    """The name under which the verifications in a remote store are recorded. `label` is the store's."""
    return f"remote-{sha256_of(label.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far a scrub came: it `began` then, and of the blob `sha256` it has read the segments before `segment`, of
    which `bad` are damaged. `identity` tells whether the blob is still the same file or object. "" before any blob."""

    began: datetime
    sha256: str = ""
    identity: str = ""
    segment: int = 0
    bad: tuple[int, ...] = ()


class Verifications:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def record(self, sha256: Sha256, where: str = ON_VOLUME, *, tag: str | None = None) -> None:
        """Record that the blob was verified now. It is not fsynced: a record that a power loss takes is made again."""
        path = self._layout.verification(sha256, where)
        self._layout.make_directory(path.parent)
        at = datetime.now(UTC).isoformat()
        write_atomically(path, json.dumps({"at": at, "tag": tag}).encode(), sync=False)

    @disk_errors
    def last(self, sha256: Sha256, where: str = ON_VOLUME) -> Verification | None:
        """The last verification of the blob; None where there was none, or its record cannot be read."""
        try:
            value = self._read(self._layout.verification(sha256, where))
            at, tag = _past_time(value, "at"), value.get("tag")
        except (FileNotFoundError, NotADirectoryError, UnusableContent):
            return None
        return Verification(at, tag) if isinstance(tag, str | None) else None

    @disk_errors
    def forget(self, sha256: Sha256, where: str | None = None) -> None:
        """Remove the record for one store, or with None for all: the bytes are gone, or were found damaged."""
        directory = self._layout.verification(sha256, ON_VOLUME).parent
        for name in self._layout.names(directory):
            if name.startswith(f"{sha256}-") and where in {None, name.removeprefix(f"{sha256}-").removesuffix(".json")}:
                (directory / name).unlink(missing_ok=True)

    @disk_errors
    def save_progress(self, progress: ScrubProgress, where: str = ON_VOLUME) -> None:
        """Remember how far a scrub came. It is not fsynced."""
        path = self._progress(where)
        self._layout.make_directory(path.parent)
        value = {**asdict(progress), "began": progress.began.isoformat()}
        write_atomically(path, json.dumps(value).encode(), sync=False)

    @disk_errors
    def progress(self, where: str = ON_VOLUME) -> ScrubProgress | None:
        """How far a scrub came that has not read everything; None where there was none, or it cannot be read."""
        try:
            value = self._read(self._progress(where))
            bad = value.get("bad")
            numbers = tuple(count_field({"bad": number}, "bad") for number in bad) if isinstance(bad, list) else ()
            identity = text_field(value, "identity"), count_field(value, "segment")
            return ScrubProgress(_past_time(value, "began"), text_field(value, "sha256"), *identity, numbers)
        except (FileNotFoundError, NotADirectoryError, UnusableContent):
            return None

    @disk_errors
    def end_progress(self, where: str = ON_VOLUME) -> None:
        """A scrub has read everything: the next one begins anew."""
        self._progress(where).unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any]:
        return parse_object(self._layout.read(path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)

    def _progress(self, where: str) -> Path:
        return self._layout.verified / f"scrub-{check_report_name(where)}.json"


def _past_time(value: dict[str, Any], name: str) -> datetime:
    """A time that is not ahead of this machine's clock: no planted record is newer than all that are to come."""
    at = time_field(value, name)
    if at > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise UnusableContent("it is in the future", key=name)
    return at
