"""Cache a snapshot: copy it from the volume to the remote store."""

from __future__ import annotations

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.holdings import share_holdings
from paddock.lifecycle.locate import locate
from paddock.lifecycle.promote.promote import update_remote_ref
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import Runner, step
from paddock.lifecycle.uses import share_usage
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.store.copying import CopyResult, push
from paddock.store.protocol import has_snapshot


def cache(runner: Runner, wanted: Reference) -> tuple[Manifest, CopyResult | None]:
    """Copy a snapshot of the volume to the remote store, and verify each file while it is sent. Returns (the snapshot,
    what was copied; None where no remote store is set)."""
    manifest = runner.run(locate, wanted)
    return manifest, runner.run(push_snapshot, manifest)


def _line(copied: CopyResult | None) -> str:
    return copied.line if copied else "PADDOCK_S3_URI is not set: the volume is the only copy"


@step(Kind.STORE, "push-promoted", line=lambda copied: _line(copied) if copied else "nothing had to be sent to S3")
def push_missing(clients: Clients, manifest: Manifest) -> CopyResult | None:
    """As `push_snapshot`, unless the remote store has the snapshot."""
    if clients.remote is None or has_snapshot(clients.remote, manifest.id):
        return None
    return push_snapshot(clients, manifest)


@step(Kind.STORE, "push", line=_line)
def push_snapshot(clients: Clients, manifest: Manifest) -> CopyResult | None:
    """Copy the blobs that the remote store lacks, then the manifest; tell it what the volume has and used. None
    where no remote store is set."""
    if clients.remote is None:
        return None
    copied = push(clients.volume, clients.remote, manifest)
    update_remote_ref(clients, manifest.model)
    share_usage(clients)
    share_holdings(clients)
    return copied
