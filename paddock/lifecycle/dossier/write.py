"""Compose the dossier of a snapshot, and write it to the reports of the volume and of the remote store.

It is composed anew whenever it is read. The files that were written are for readers without Paddock: whatever changes a
fact of a snapshot calls `refresh_dossier` for it, so that they say what is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import locate
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.model.reference import Reference
from paddock.store.protocol import has_snapshot

if TYPE_CHECKING:
    from paddock.lifecycle.dossier.document import DossierDocument

_LOG = logging.getLogger(__name__)

REPORT = "dossier.md"
JSON_REPORT = "dossier.json"


@dataclass(frozen=True, slots=True)
class Dossier:
    """The dossier, and the path of the Markdown file that it was written to."""

    document: DossierDocument
    markdown: str
    path: str


@step(Kind.STORE, "dossier", line=lambda dossier: f"the dossier is at {dossier.path}")
def write_dossier(clients: Clients, manifest: Manifest) -> Dossier:
    """Draw the pictures, compose the dossier, and write it to the reports of the volume, and of the remote store if
    that has the snapshot."""
    from paddock.lifecycle.dossier.page import markdown
    from paddock.lifecycle.run.pictures import draw_pictures

    draw_pictures(clients, manifest)
    document = read_dossier(clients, manifest)
    page, value = markdown(document), document.to_json()
    clients.volume.write_report(manifest.id, JSON_REPORT, value)
    path = clients.volume.write_report(manifest.id, REPORT, page)
    if clients.remote is not None and has_snapshot(clients.remote, manifest.id):
        clients.remote.write_report(manifest.id, JSON_REPORT, value)
        clients.remote.write_report(manifest.id, REPORT, page)
    return Dossier(document, page, path)


def read_dossier(clients: Clients, manifest: Manifest) -> DossierDocument:
    """Compose the dossier from what is known now."""
    from paddock.lifecycle.dossier.compose import compose
    from paddock.lifecycle.dossier.facts import gather

    return compose(gather(clients, manifest))


@step(Kind.STORE, "dossier")
def refresh_dossier(clients: Clients, manifest: Manifest) -> Dossier | None:
    """Write the dossier again after a fact of the snapshot changed. None where the volume has no dossier of it, or
    cannot be written.

    Raises nothing: what changed the fact succeeded.
    """
    dossier = None
    try:
        if clients.volume.read_report(manifest.id, REPORT) is not None:
            with clients.volume.recording():
                dossier = write_dossier(clients, manifest)
    except PaddockError as error:
        _LOG.warning("the dossier of %s was not written again: %s", manifest.id.short, error.message)
    return dossier


def refresh_dossiers_with(clients: Clients, sha256: Sha256) -> None:
    """Write the dossiers again of all snapshots with a file that was found damaged, or was repaired."""
    for manifest in clients.volume.snapshots():
        if any(file.sha256 == sha256 for file in manifest.files):
            refresh_dossier(clients, manifest)


@contextmanager
def dossier_kept_current(clients: Clients, wanted: Reference) -> Iterator[None]:
    """Write the dossier of a snapshot again when the block ends, also where that raises: a model that a validation
    rejects has a dossier that says so."""
    try:
        yield
    finally:
        with suppress(PaddockError):  # what cannot be found has no dossier
            refresh_dossier(clients, locate(clients, wanted))
