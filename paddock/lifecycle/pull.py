"""Pulling a model: every phase from the Hub's listing to a promoted snapshot, in one call and without an
orchestrator."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.lifecycle import acquisition, auditing, promotion
from paddock.lifecycle.delivery import Acquired, acquire_file
from paddock.lifecycle.listing import resolve
from paddock.lifecycle.locating import shown_at, wanted_quantization
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.preflight import choose_fitting
from paddock.lifecycle.retention import NOTHING, Pruned, prune
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.choice import AUTO
from paddock.planning.placement import Target
from paddock.planning.plan import Wish
from paddock.planning.profile import PROFILES
from paddock.transfer.progress import Watch

log = logging.getLogger(__name__)

SERVED = Wish(PROFILES["chat"].context_tokens, at_most_trained=True)
"""What a model must fit with where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did. `path` is the snapshot's directory, or the promoted one; `transferred_bytes` came over the
    network. `notes` say what is otherwise than it was asked for."""

    path: Path
    manifest: Manifest
    acquired: tuple[Acquired, ...]
    promoted: bool
    notes: tuple[str, ...]
    pruned: Pruned
    seconds: float

    @property
    def transferred_bytes(self) -> int:
        return sum(one.transferred_bytes for one in self.acquired)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "revision": self.manifest.revision,
            "variant": self.manifest.variant,
            "quantization": self.manifest.quantization,
            "promoted": self.promoted,
            "notes": list(self.notes),
            "files": [
                {"path": one.file.path, "size": one.file.size, "sha256": one.file.sha256, "source": one.origin}
                for one in self.acquired
            ],
            "bytes_transferred": self.transferred_bytes,
            "removed": self.pruned.to_json(),
            "freed_bytes": self.pruned.freed_bytes,
            "seconds": round(self.seconds, 3),
        }


def pull(
    parts: Parts,
    wanted: Reference,
    *,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    promote: bool = True,
    wish: Wish = SERVED,
    target: Target | None = None,
    watch: Watch | None = None,
) -> Pulled:
    """Fetch what is not there yet, audit it, publish the snapshot, and promote it as the model's default unless told
    otherwise. What does not fit `target`, by default this machine, with the context of `wish` is not fetched.

    `quantization` names a variant, a file or a quantization; with `auto` the default's variant is kept while it fits,
    and with `best` the best that fits is chosen anew. Raises the errors of each phase (`paddock.errors`); whatever it
    raises, what was promoted before is untouched.
    """
    began = time.monotonic()
    quantization = wanted_quantization(wanted.variant, quantization)
    listing = resolve(parts, wanted.model, wanted.ref or "main")
    chosen = choose_fitting(
        parts, listing, wish, target=target, quantization=quantization, files=files, projector=projector
    )
    for note in chosen.notes:
        log.warning("%s", note)
    if chosen.preflight:
        chosen.preflight.require_fit()
    parts.volume.prepare()
    plan = acquisition.plan(parts, listing, chosen.choice)
    if promote:
        parts.volume.check_names(listing.model, plan.id.variant)
    parts.volume.require_room(plan.need_bytes)
    if watch:
        watch.begin(plan.fetch_bytes)
    moved = watch.moved if watch else None
    acquired = tuple(acquire_file(parts, listing, row, progress=moved) for row in plan.rows)
    audited = auditing.audit_acquired(parts, listing, chosen.choice, acquired)
    manifest = acquisition.publish(parts, plan, acquired, audited=audited).manifest
    pruned = NOTHING
    if promote:
        promotion.promote(parts, manifest.id, reason="pulled", wait_for_s3=False)
        pruned = prune(parts, manifest.model, manifest.variant)
    path = shown_at(parts, manifest.id, promoted=promote)
    return Pulled(path, manifest, acquired, promote, chosen.notes, pruned, time.monotonic() - began)
