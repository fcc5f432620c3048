"""The reports that are kept of a snapshot: one JSON document each, with the digests of the files that it is about.

They lie with the volume, so that a dossier can be written by another process than the one that judged or measured. A
worker with a volume of its own shares its reports through S3; then the newer one of both places counts.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.quantization import is_gguf
from paddock.planning.targets import THIS_MACHINE

_LOG = logging.getLogger(__name__)
_Report = TypeVar("_Report")


def keep(clients: Clients, manifest: Manifest, name: str, value: dict[str, Any]) -> None:
    """Write the report `name` on the volume, in the place of the one there was."""
    kept = {"files": _ggufs(manifest), "at": datetime.now(UTC).isoformat(), "report": value}
    clients.volume.write_report(manifest.id, name, json.dumps(kept, indent=2))


def name_for(name: str, target: str) -> str:
    """The file name of a report made for a target: what is for another machine does not replace what is for this."""
    if target == THIS_MACHINE:
        return name
    stem, _, suffix = name.partition(".")
    flat = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")
    return f"{stem}.{flat}.{suffix}"


def share(clients: Clients, manifest: Manifest, name: str) -> str | None:
    """Copy a report of the volume to S3, for those who have another volume; returns where it is. None where there is
    nothing to copy, or no S3 that has the snapshot."""
    text = clients.volume.read_report(manifest.id, name)
    if text is None or clients.remote is None or clients.remote.snapshot(manifest.id) is None:
        return None
    return clients.remote.write_report(manifest.id, name, text)


def read(clients: Clients, manifest: Manifest, name: str, parse: Callable[[dict[str, Any]], _Report]) -> _Report | None:
    """The newest report on these very files, or None: what cannot be read any more is made anew by the next run."""
    found: list[tuple[str, _Report]] = []
    for store in (clients.volume, *([clients.remote] if clients.remote else [])):
        try:
            kept = json.loads(store.read_report(manifest.id, name) or "{}")
            if kept.get("files") == _ggufs(manifest):
                found.append((str(kept.get("at", "")), parse(kept["report"])))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _LOG.warning("the report %s of %s cannot be read: %s", name, manifest.repository, type(error).__name__)
    return max(found, key=lambda one: one[0])[1] if found else None


def _ggufs(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files if is_gguf(file.path)}
