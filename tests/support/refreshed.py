"""Models that are on a local Hub, and promoted on the volume as a refresh left them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from infra.local.hub.repositories import LocalHub
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Variant
from paddock.store.volume import Volume
from tests.support.stores import Q8, manifest_of, put_blobs

CARD = {"README.md": b"# Model\n"}


def promoted_model(
    hub: LocalHub,
    volume: Volume,
    name: str,
    files: Mapping[str, bytes],
    *,
    variant: Variant = Q8,
    engine: str = "1",
    default: bool = True,
) -> Manifest:
    """Commit files and a card to a repository, and publish and promote the files as a snapshot of that commit."""
    commit = Revision(hub.repository(name).commit({**CARD, **files}))
    manifest = manifest_of(commit, dict(files), model=ModelName.parse(name), variant=variant)
    manifest = replace(manifest, engine_version=engine)
    put_blobs(volume, manifest, dict(files), Path())
    volume.publish(manifest)
    volume.promote(manifest.id, reason="by a test", default=default)
    return manifest


def catalog_of(*lines: str) -> bytes:
    """The text of a catalog with these entries, each as a flow mapping without braces."""
    return ("models:\n" + "".join(f"  - {{{line}}}\n" for line in lines)).encode()


UNBOUNDED_GATES = "{kl_ratio: 1000000, agreement: 0, decode: 0, prefill: 0, time_to_first_token: 1000000}"
"""The gates of a catalog entry with which every sound model is promoted, whatever it answers and how slowly."""
