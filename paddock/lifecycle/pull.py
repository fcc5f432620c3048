"""Pulling a model: every phase from the Hub's listing to a promoted snapshot, in one call and without an
orchestrator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.lifecycle import acquisition, auditing, promotion
from paddock.lifecycle.delivery import Acquired, acquire_file
from paddock.lifecycle.listing import resolve
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.preflight import choose_fitting
from paddock.lifecycle.retention import NOTHING, Pruned, prune
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.planning.choice import AUTO, choose
from paddock.planning.placement import Target
from paddock.planning.plan import Wish
from paddock.planning.profile import PROFILES
from paddock.transfer.progress import Watch

SERVED = Wish(PROFILES["chat"].context_tokens, at_most_trained=True)
"""What a model must fit with where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did. `path` is the snapshot's directory, or the promoted one; `transferred_bytes` came over the
    network."""

    path: Path
    manifest: Manifest
    acquired: tuple[Acquired, ...]
    promoted: bool
    pruned: Pruned
    seconds: float

    @property
    def transferred_bytes(self) -> int:
        return sum(one.transferred_bytes for one in self.acquired)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "revision": self.manifest.revision,
            "quantization": self.manifest.quantization,
            "promoted": self.promoted,
            "files": [
                {"path": one.file.path, "size": one.file.size, "sha256": one.file.sha256, "source": one.origin}
                for one in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
            "removed": list(self.pruned.removed),
            "freed_bytes": self.pruned.freed_bytes,
            "seconds": round(self.seconds, 3),
        }


def pull(
    parts: Parts,
    model: ModelName,
    *,
    ref: str = "main",
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    promote: bool = True,
    wish: Wish = SERVED,
    target: Target | None = None,
    watch: Watch | None = None,
) -> Pulled:
    """Fetch what is not there yet, audit it, publish the snapshot, and promote it unless told otherwise. What does not
    fit `target`, by default this machine, with the context of `wish` is not fetched.

    Raises the errors of each phase (`paddock.errors`); whatever it raises, the model that was promoted before is
    untouched.
    """
    began = time.monotonic()
    listing = resolve(parts, model, ref)
    if files or quantization != AUTO:  # what is asked for by name has a place, or has none, whatever it holds
        asked = choose(listing, quantization=quantization, files=files, projector=projector)
        acquisition.require_place(parts, acquisition.plan(parts, listing, asked), replace_promoted=promote)
    choice, found = choose_fitting(
        parts, listing, wish, target=target, quantization=quantization, files=files, projector=projector
    )
    if found:
        found.require_fit()
    parts.volume.prepare()
    plan = acquisition.plan(parts, listing, choice)
    acquisition.require_place(parts, plan, replace_promoted=promote)
    parts.volume.require_room(plan.need_bytes)
    if watch:
        watch.begin(plan.fetch_bytes)
    moved = watch.moved if watch else None
    acquired = tuple(acquire_file(parts, listing, row, progress=moved) for row in plan.rows)
    audited = auditing.audit_acquired(parts, listing, choice, acquired)
    manifest = acquisition.publish(parts, listing, choice, acquired, audited=audited, replace_promoted=promote).manifest
    pruned = NOTHING
    if promote:
        promotion.promote(parts, model, manifest.revision, reason="pulled", wait_for_s3=False)
        pruned = prune(parts, model)
    path = parts.volume.model_path(model) if promote else parts.volume.snapshot_path(model, manifest.revision)
    return Pulled(path, manifest, acquired, promote, pruned, time.monotonic() - began)
