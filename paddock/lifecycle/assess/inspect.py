"""Inspect a model: audit a local file or directory, or the header of a file on the Hub, read by range requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddock.engine.facts import knows_architecture
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.assess.audit import audit_paths
from paddock.lifecycle.assess.chat_template import gguf_template_change
from paddock.lifecycle.assess.model_source import source_from_listing
from paddock.lifecycle.assess.sound_models import best_sound_model
from paddock.lifecycle.assess.source_argument import HubSource, parse_source
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.revisions import list_revision
from paddock.model.finding import Verdict, verdict_of
from paddock.model.quantization import group_shards, local_files, split_count
from paddock.model.reference import SnapshotId
from paddock.planning.file_selection import require_gguf
from paddock.timings import phase
from paddock.validation.audit import Audit, audit_set


@dataclass(frozen=True, slots=True)
class Inspection:
    """The audit of a source, and its cost. `name` is the source for people: a path, or `org/name@commit:file`."""

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
    """Audit a SOURCE argument (`source_argument`); with `deep`, its tensor data too.

    Raises NoSuchFile for a local path that does not exist, UnsafeName, and the errors of the Hub and of the transfer.
    """
    began = time.perf_counter()
    parsed = parse_source(source, clients.hub.endpoint)
    if isinstance(parsed, HubSource):
        name, audit = _audit_on_hub(clients, parsed, deep=deep)
    else:
        name, audit = str(parsed), _audit_local(parsed, deep=deep)
    return Inspection(name, audit, audit.bytes_read, time.perf_counter() - began)


def _audit_local(path: Path, *, deep: bool) -> Audit:
    first = get_gguf_file_path(path) if path.is_dir() else path
    directory = first.parent
    sets = group_shards(local_files(directory)) if split_count(first.name) > 1 else []
    names = next((gguf.paths for gguf in sets if first.name in gguf.paths), (first.name,))
    with phase("audit"):
        return audit_paths([(name, directory / name) for name in names], deep=deep)


def _audit_on_hub(clients: Clients, source: HubSource, *, deep: bool) -> tuple[str, Audit]:
    """(name of the source, audit of the best GGUF that the source names)."""
    listing = list_revision(clients, source.model, source.ref, variant=source.variant)
    require_gguf(listing)
    files = () if source.file is None else (source.file,)
    models = source_from_listing(clients, listing, files=files, variant=source.variant)
    model = best_sound_model(models)
    for open_shards in models.openers:
        with phase("audit"), open_shards(model) as shards:
            audit = audit_set(shards, names=model.paths, knows_architecture=knows_architecture, deep=deep)
        if audit.verdict is not Verdict.REJECT:
            break  # else it may be a damaged copy of ours, and the last one is not ours
    bytes_read = models.traffic.received_bytes or audit.bytes_read
    id = SnapshotId(listing.model, listing.revision, models.names[model])
    findings = audit.findings + tuple(gguf_template_change(clients, id, audit.template.sha256))
    audit = replace(audit, findings=findings, verdict=verdict_of(findings), bytes_read=bytes_read)
    return f"{listing.model}@{listing.revision}:{model.first}", audit
