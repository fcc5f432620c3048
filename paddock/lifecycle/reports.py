"""Write and read the reports on a snapshot: one JSON document each, on the volume and in the remote store.

    {"files": {path: sha256}, "at": ISO 8601 in UTC, "report": {...}}

A report outlives the process that made it: another one writes the dossier. `files` are the snapshot's GGUF files; a
report on other digests is ignored. A worker with a volume of its own shares its reports through the remote store; of
two reports the newer one counts, and one with a time in the future counts as the oldest. A verdict of the volume itself
is not replaced by one from the remote store, where others can write (`own_first`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.quantization import is_gguf
from paddock.planning.targets import THIS_MACHINE
from paddock.store.manifests import MAX_DOCUMENT_BYTES
from paddock.store.protocol import Store, has_snapshot
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import parse_time
from paddock.untrusted.json_text import parse_object
from paddock.untrusted.records import check_record

_READERS = 8
_CLOCK_ERROR = timedelta(days=1)
_LOG = logging.getLogger(__name__)
_Report = TypeVar("_Report")


def write(clients: Clients, manifest: Manifest, name: str, value: dict[str, Any]) -> str:
    """Write the report `name` to the volume, replacing an earlier one, and return its path."""
    document = {"files": _ggufs(manifest), "at": datetime.now(UTC).isoformat(), "report": value}
    return clients.volume.write_report(manifest.id, name, json.dumps(document, indent=2))


def record(clients: Clients, manifest: Manifest, name: str, value: dict[str, Any]) -> None:
    """As `write`; on a volume that cannot be written, nothing is recorded, which is said once."""
    with clients.volume.recording():
        write(clients, manifest, name, value)


def file_name(name: str, target: str) -> str:
    """The file name of a report for a target. Each other machine has its own, beside the one for this machine."""
    if target == THIS_MACHINE:
        return name
    stem, _, suffix = name.partition(".")
    slug = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")
    return f"{stem}.{slug}.{suffix}"


def share(clients: Clients, manifest: Manifest, name: str) -> str | None:
    """Copy a report of the volume to the remote store, for workers with another volume, and return its address. None
    where there is no report, or no remote store that has the snapshot."""
    text = clients.volume.read_report(manifest.id, name)
    if text is None or clients.remote is None or not has_snapshot(clients.remote, manifest.id):
        return None
    return clients.remote.write_report(manifest.id, name, text)


def read(
    clients: Clients,
    manifest: Manifest,
    name: str,
    parse: Callable[[dict[str, Any]], _Report],
    *,
    own_first: bool = False,
) -> _Report | None:
    """The newest report on these files, or None. With `own_first`, the remote store is only asked where the volume has
    none. A report that cannot be parsed is logged and ignored: the next run replaces it."""
    if own_first and (own := _load(clients.volume, manifest, name, parse)):
        return own[1]
    found = [dated for store in stores(clients) if (dated := _load(store, manifest, name, parse))]
    return max(found, key=lambda dated: dated[0])[1] if found else None


def read_all(
    clients: Clients, manifest: Manifest, pattern: re.Pattern[str], parse: Callable[[dict[str, Any]], _Report]
) -> list[tuple[str, _Report]]:
    """(time of writing, report) of every report on these files whose name matches, of each store that has it. As `read`
    for one that cannot be parsed."""
    found: list[tuple[str, _Report]] = []
    for store in stores(clients):
        names = [name for name in store.report_names(manifest.id) if pattern.fullmatch(name)]
        with ThreadPoolExecutor(_READERS) as readers:
            loaded = readers.map(lambda name, store=store: _load(store, manifest, name, parse), names)
            found += [dated for dated in loaded if dated]
    return found


def carry_over(clients: Clients, source: Manifest, target: Manifest, pattern: re.Pattern[str]) -> None:
    """Write the reports of a snapshot on the volume whose names match also for another snapshot with the same GGUF
    files. Reports that the other one has stay."""
    if _ggufs(source) != _ggufs(target):
        return
    present = set(clients.volume.report_names(target.id))
    for name in clients.volume.report_names(source.id):
        text = clients.volume.read_report(source.id, name) if pattern.fullmatch(name) else None
        if text is not None and name not in present:
            clients.volume.write_report(target.id, name, text)


def stores(clients: Clients) -> tuple[Store, ...]:
    """The stores that have reports: the volume, and the remote store if there is one."""
    return (clients.volume, clients.remote) if clients.remote else (clients.volume,)


def _load(
    store: Store, manifest: Manifest, name: str, parse: Callable[[dict[str, Any]], _Report]
) -> tuple[str, _Report] | None:
    """(the time of writing, the report); None where there is none, it is about other files, or cannot be parsed."""
    try:
        document = parse_object(store.read_report(manifest.id, name) or "{}", max_bytes=MAX_DOCUMENT_BYTES)
        if document.get("files") == _ggufs(manifest):
            return _written_at(document.get("at")), _checked(parse(document["report"]))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StopIteration) as error:
        reason = error if isinstance(error, UnusableContent) else type(error).__name__
        _LOG.warning("the report %s of %s cannot be read: %s", name, manifest.repository, reason)
    return None


def _checked(report: _Report) -> _Report:
    """Return a report whose fields have the types of its class, and which can be written again, so that whatever is
    computed of it can be. Raises what that raises."""
    for one in report if isinstance(report, tuple) else (report,):
        if is_dataclass(one):
            check_record(one)
        if hasattr(one, "to_json"):
            one.to_json()
    return report


def _written_at(text: object) -> str:
    """The time of writing in UTC, which can be compared as text; "" for one that cannot be."""
    try:
        at = parse_time(str(text))
    except ValueError:
        return ""
    return at.isoformat() if at <= datetime.now(UTC) + _CLOCK_ERROR else ""


def _ggufs(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files if is_gguf(file.path)}
