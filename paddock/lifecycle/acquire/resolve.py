"""Resolve a revision to a commit and its files: on the Hub, or in the stores if the Hub fails."""

from __future__ import annotations

import logging

from paddock.chat.template import DERIVED_FILES
from paddock.errors import (
    CorruptFile,
    HubRefused,
    HubUnavailable,
    ModelNotFound,
    RevisionNotFound,
    StoreRefused,
    StoreUnavailable,
)
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Listing, Manifest, RepositoryFile
from paddock.model.names import ModelName, Revision, find_by_prefix, is_revision, parse_revision
from paddock.model.quantization import group_shards, is_projector

log = logging.getLogger(__name__)


@step(
    Kind.HUB,
    "resolve-{ref}",
    line=lambda listing: f"{listing.model} is at commit {listing.revision}, {len(listing.files)} files",
)
def resolve(clients: Clients, model: ModelName, ref: str) -> Listing:
    """Resolve a branch, tag, commit, or the beginning of a commit on the volume, and list the files of the commit.

    If the Hub does not answer, refuses, or no longer has the model, a commit that is on the volume or in the remote
    store is listed from there, with the files that were fetched then and no others. Raises the Hub's error otherwise.
    """
    if not is_revision(ref):
        ref = find_by_prefix(ref, [id.revision for id in clients.volume.ids(model)]) or ref
    try:
        return clients.hub.listing(model, ref)
    except (HubUnavailable, HubRefused, ModelNotFound, RevisionNotFound) as error:
        stored = _stored(clients, model, parse_revision(ref)) if is_revision(ref) else []
        if not stored:
            raise
        log.warning("%s; the files of %s@%s are listed from its stored snapshots", error.message, model, ref[:8])
        return listing_of(*stored)


def listing_of(*manifests: Manifest) -> Listing:
    """A listing made from stored snapshots of one revision, without the Hub."""
    files = {file.path: file for manifest in manifests for file in manifest.files if file.path not in DERIVED_FILES}
    return Listing(
        model=manifests[0].model,
        revision=manifests[0].revision,
        files=tuple(RepositoryFile(file.path, file.size, file.sha256, None) for _, file in sorted(files.items())),
        licence=next((manifest.licence for manifest in manifests if manifest.licence), None),
        variants={
            gguf.first: manifest.variant
            for manifest in manifests
            for gguf in group_shards((file.path, file.size) for file in manifest.files)
            if not any(is_projector(file.path) for file in manifest.files)
        },
    )


def _stored(clients: Clients, model: ModelName, revision: Revision) -> list[Manifest]:
    """The manifests of a revision on the volume, else in the remote store."""
    for store in (clients.volume, clients.remote):
        manifests = []
        try:
            for id in store.ids(model) if store is not None else ():
                manifest = store.snapshot(id) if store is not None and id.revision == revision else None
                manifests += [manifest] if manifest is not None else []
        except (CorruptFile, StoreUnavailable, StoreRefused) as error:
            log.warning("%s", error.message)
        if manifests:
            return manifests
    return []
