"""Tell the other workers of a fleet, through the remote store, what this volume has: a clean-up there keeps it."""

from __future__ import annotations

import logging

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.store.history import whoami
from paddock.store.holdings import Holdings

log = logging.getLogger(__name__)


def holdings_of(clients: Clients) -> Holdings:
    """List the snapshots and blobs of the volume, by its manifests."""
    volume = clients.volume
    manifests = volume.snapshots()
    return Holdings(
        worker=f"{volume.label} of {whoami()}",
        snapshots=frozenset(manifest.id for manifest in manifests),
        pinned=frozenset(id for model in {manifest.model for manifest in manifests} for id in volume.pins.of(model)),
        blobs=frozenset(file.sha256 for manifest in manifests for file in manifest.files),
    )


def share_holdings(clients: Clients) -> None:
    """Write what the volume has to the remote store, where there is one. A failure is logged: until the next time, the
    store knows what it was told last."""
    if clients.remote is None:
        return
    try:
        clients.remote.write_holdings(clients.volume.identity.name(), holdings_of(clients))
    except PaddockError as error:
        log.warning("%s is not told what %s has: %s", clients.remote.label, clients.volume.label, error.message)
