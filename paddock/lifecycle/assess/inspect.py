"""Looking at a model wherever it is: a local file or directory, or a file on the Hub, of which only the header is asked
for."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddock.engine.facts import knows_architecture
from paddock.errors import NoSuchFile
from paddock.lifecycle.assess.audit import audit_paths
from paddock.lifecycle.assess.chat_template import gguf_template_change
from paddock.lifecycle.clients import Clients
from paddock.model.finding import Verdict, verdict_of
from paddock.model.names import ModelName, parse_ref
from paddock.model.quantization import get_gguf_file_path, group_shards, local_files, split_count
from paddock.model.reference import Reference, SnapshotId, Variant
from paddock.planning.file_selection import BEST, select_files
from paddock.transfer.ranges import RangeReader
from paddock.validation.audit import Audit, audit_set


@dataclass(frozen=True, slots=True)
class Inspection:
    """An audit, of what it was, and what it cost. `name` is what was looked at, for people."""

    name: str
    audit: Audit
    bytes_read: int
    seconds: float

    @property
    def verdict(self) -> Verdict:
        return self.audit.verdict

    def to_json(self) -> dict[str, Any]:
        return {
            **self.audit.to_json(),
            "source": self.name,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }


def inspect(clients: Clients, source: str, *, deep: bool = False) -> Inspection:
    """Audit SOURCE: a local `.gguf` file or directory, or `org/name[:VARIANT][@REVISION]`, or
    `org/name[@REVISION]:path.gguf`.

    What exists on the disk, and what is written as a path or a `.gguf` file without a repository, is local. Raises
    NoSuchFile for a local path that is not there, UnsafeName, and the errors of the Hub and of the transfer.
    """
    began = time.perf_counter()
    path = local_path(source)
    if path is not None:
        name, audit = str(path), _local(path, deep=deep)
    else:
        name, audit = _remote(clients, source, deep=deep)
    return Inspection(name, audit, audit.bytes_read, time.perf_counter() - began)


def local_path(source: str) -> Path | None:
    """Where a SOURCE is on this machine; None for one on the Hub. Raises NoSuchFile."""
    path = _path(source)
    return path if _is_local(source, path) else None


@dataclass(frozen=True, slots=True)
class OnHub:
    """A SOURCE on the Hub: a model, its variant or one file, at a branch, tag or commit."""

    model: ModelName
    ref: str
    variant: Variant | None
    file: str | None


def repository_of(source: str) -> OnHub:
    """Read `org/name[:VARIANT][@REVISION]` or `org/name[@REVISION]:path.gguf`; `main` where no revision is said. Raises
    UnsafeName."""
    head, colon, file = source.partition(":")
    if colon and file.lower().endswith(".gguf"):
        text, at, ref = head.partition("@")
        return OnHub(ModelName.parse(text), parse_ref(ref) if at else "main", None, file)
    reference = Reference.parse(source)
    return OnHub(reference.model, reference.ref or "main", reference.variant, None)


def _path(source: str) -> Path:
    if not source:  # which Path takes for the current directory
        raise NoSuchFile("there is no file without a name", cure="give the path of a .gguf file, or org/name")
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise NoSuchFile(
            f"the home directory in {source[:200]!r} is not known", cure="give the path without the `~`"
        ) from None


def _is_local(source: str, path: Path) -> bool:
    try:
        if path.exists():
            return True
    except (OSError, ValueError):
        raise NoSuchFile(
            f"{source[:200]!r} is not a path that can exist", cure="give a .gguf file, or org/name"
        ) from None
    if source.startswith(("/", "./", "../", "~")) or (source.lower().endswith(".gguf") and ":" not in source):
        raise NoSuchFile(
            f"there is no file {source}", cure="give the path of a .gguf file, or org/name[:VARIANT][@REVISION]"
        )
    return False


def _local(path: Path, *, deep: bool) -> Audit:
    first = get_gguf_file_path(path) if path.is_dir() else path
    home = first.parent
    sets = group_shards(local_files(home)) if split_count(first.name) > 1 else []
    paths = next((one.paths for one in sets if first.name in one.paths), (first.name,))
    return audit_paths([(name, home / name) for name in paths], deep=deep)


def _remote(clients: Clients, source: str, *, deep: bool) -> tuple[str, Audit]:
    wanted = repository_of(source)
    model = wanted.model
    listing = clients.hub.listing(model, wanted.ref)
    files = () if wanted.file is None else (wanted.file,)
    chosen = select_files(listing, quantization=wanted.variant or BEST, files=files)
    by_path = {one.path: one for one in listing.files}
    with ExitStack() as stack:
        sources = [
            stack.enter_context(
                RangeReader(clients.hub.file(model, listing.revision, by_path[name]), stall_s=clients.settings.stall_s)
            )
            for name in chosen.model_files
        ]
        audit = audit_set(sources, names=chosen.model_files, knows_architecture=knows_architecture, deep=deep)
        fetched = sum(reader.bytes_read for reader in sources)
    changed = tuple(
        gguf_template_change(clients, SnapshotId(model, listing.revision, chosen.variant), audit.template.sha256)
    )
    audit = replace(audit, findings=audit.findings + changed, verdict=verdict_of(audit.findings + changed))
    return f"{model}@{listing.revision}:{chosen.model_files[0]}", replace(audit, bytes_read=fetched)
