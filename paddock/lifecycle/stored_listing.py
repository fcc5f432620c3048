"""List the files of a revision from its stored snapshots, without asking the Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from paddock.chat.template import DERIVED_FILES
from paddock.errors import (
    CorruptFile,
    HubRefused,
    HubUnavailable,
    PaddockError,
    RevisionNotFound,
    StoreRefused,
    StoreUnavailable,
)
from paddock.gguf.survey import survey_snapshot
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Listing, Manifest, RepositoryFile
from paddock.model.names import ModelName, Revision, is_commit_prefix
from paddock.model.quantization import group_shards
from paddock.model.reference import Reference, SnapshotId, same_variant
from paddock.store.protocol import Store

MAIN = "main"

log = logging.getLogger(__name__)


def hub_is_out(clients: Clients, error: PaddockError) -> bool:
    """Whether an error means that the Hub does not answer, or may not be asked."""
    return isinstance(error, HubUnavailable) or (isinstance(error, HubRefused) and clients.settings.hub_offline)


def list_stored(
    clients: Clients,
    model: ModelName,
    ref: str,
    *,
    commit: Revision | None,
    variant: str | None,
    error: PaddockError,
) -> Listing:
    """List a revision that the Hub did not list because of `error`, from the volume, else from the remote store.
    `commit` is the commit that `ref` names, None for a branch or tag, which is only looked up where the Hub does not
    answer. Of several commits that could be meant, one that has `variant`.

    What is used is logged as a warning. Raises `error`, with what the volume has, where nothing is stored.
    """
    name = clients.volume.spelled(model)
    if commit is not None:
        stored = _stored(clients, name, commit)
        if stored:
            log.warning("%s; the files of %s@%s are listed from its stored snapshots", error.message, name, commit[:8])
            return listing_of(*stored)
    elif hub_is_out(clients, error):
        wanted = variant or clients.volume.promoted(name).default
        for revision, why in _without_hub(clients, name, ref, wanted):
            stored = _stored(clients, name, revision)
            if stored and (wanted is None or _has_variant(stored, wanted)):
                log.warning("%s; %s@%s is used, %s", error.message, name, revision[:8], why)
                return listing_of(*stored)
    raise _with_stored(clients, Reference(name, ref=None if ref == MAIN else ref), variant, error)


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
            for sets in [group_shards((file.path, file.size) for file in manifest.files)]
            for gguf in sets
            if not survey_snapshot(sets).projectors
        },
    )


def _without_hub(clients: Clients, model: ModelName, ref: str, variant: str | None) -> Iterator[tuple[Revision, str]]:
    """The commits that a branch or tag may stand for without the Hub, best first, each with the reason."""
    seen = clients.volume.refs.of(model).get(ref)
    if seen is not None:
        yield seen.revision, f"the commit of {ref} at {seen.seen_at:%Y-%m-%d %H:%M} UTC"
    if ref == MAIN:
        promoted = clients.volume.promoted(model)
        ids = [id for id in promoted.ids if variant is None or same_variant(id.variant, variant)]
        for id in sorted(ids, key=lambda id: id != promoted.default_id):
            yield id.revision, "which is promoted"


def _has_variant(manifests: Sequence[Manifest], variant: str) -> bool:
    """Whether one of the snapshots is the variant, or has it as its quantization."""
    return any(
        same_variant(name, variant)
        for manifest in manifests
        for name in (manifest.variant, manifest.quantization or "")
    )


def _with_stored(clients: Clients, wanted: Reference, variant: str | None, error: PaddockError) -> PaddockError:
    """The Hub's error, with what the volume has of the model."""
    ids = sorted({f"{id.variant}@{id.revision[:8]}" for id in clients.volume.ids(wanted.model)})
    there = f"{clients.volume.label}, which has {', '.join(ids) or 'nothing'} of it"
    if isinstance(error, RevisionNotFound) and wanted.ref and is_commit_prefix(wanted.ref):
        message = f"{error.message}, and is the beginning of no commit on {there}"
    elif hub_is_out(clients, error):
        name = f"{wanted.model}{f':{variant}' if variant else ''}{f'@{wanted.ref}' if wanted.ref else ''}"
        message = f"{error.message}, and {name} is not on {there}"
    else:
        return error
    if isinstance(error, HubUnavailable):
        return HubUnavailable(message, cure=error.cure, retry_after_s=error.retry_after_s)
    return type(error)(message, cure=error.cure)


def _stored(clients: Clients, model: ModelName, revision: Revision) -> list[Manifest]:
    """The manifests of a revision on the volume, else in the remote store."""
    for store in (clients.volume, clients.remote):
        manifests = []
        try:
            for id in store.ids(model) if store is not None else ():
                manifest = _readable(store, id) if store is not None and id.revision == revision else None
                manifests += [manifest] if manifest is not None else []
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("%s", error.message)
        if manifests:
            return manifests
    return []


def _readable(store: Store, id: SnapshotId) -> Manifest | None:
    """The manifest of a snapshot; None for one that cannot be read, which hides no other one."""
    try:
        return store.snapshot(id)
    except CorruptFile as error:
        log.warning("%s", error.message)
        return None
