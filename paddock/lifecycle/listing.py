"""What a revision holds: as the Hub says, or as a store knows where the Hub cannot be asked."""

from __future__ import annotations

import logging

from paddock.chat.template import DERIVED
from paddock.errors import (
    CorruptFile,
    HubRefused,
    HubUnavailable,
    ModelNotFound,
    RevisionNotFound,
    StoreRefused,
    StoreUnavailable,
)
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Listing, Manifest, RepositoryFile
from paddock.model.names import ModelName, Revision, is_revision, parse_revision

log = logging.getLogger(__name__)


def resolve(parts: Parts, model: ModelName, ref: str) -> Listing:
    """Turn a branch, tag or commit into a commit, and list its files.

    Where the Hub cannot be asked, or has the model no more, a commit that is on the volume or in S3 is known from
    there: with the files that were chosen then, and with no others. Raises the Hub's error otherwise.
    """
    try:
        return parts.hub.listing(model, ref)
    except (HubUnavailable, HubRefused, ModelNotFound, RevisionNotFound) as error:
        manifest = _stored(parts, model, parse_revision(ref)) if is_revision(ref) else None
        if manifest is None:
            raise
        log.warning("%s; %s@%s is taken as it is stored", error.message, model, ref[:8])
        return listing_of(manifest)


def listing_of(manifest: Manifest) -> Listing:
    """What a snapshot knows of its revision: the repository's files that were chosen."""
    return Listing(
        model=manifest.model,
        revision=manifest.revision,
        files=tuple(
            RepositoryFile(file.path, file.size, file.sha256, None)
            for file in manifest.files
            if file.path not in DERIVED
        ),
        licence=manifest.licence,
    )


def _stored(parts: Parts, model: ModelName, revision: Revision) -> Manifest | None:
    for store in (parts.volume, parts.s3):
        try:
            manifest = store.snapshot(model, revision) if store is not None else None
        except (CorruptFile, StoreUnavailable, StoreRefused) as error:
            log.warning("%s", error.message)
            continue
        if manifest is not None:
            return manifest
    return None
