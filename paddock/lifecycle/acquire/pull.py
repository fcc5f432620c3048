"""Pull a model: acquire it, and promote it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.lifecycle.acquire.acquire import SERVED, AcquireRequest, acquire
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import visible_path
from paddock.lifecycle.promote.gating import known_to_fail
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.lifecycle.promote.retention import NOTHING, Pruned, prune
from paddock.lifecycle.steps import PlainRunner, Runner
from paddock.measure.gate_report import GateReport
from paddock.model.acquired import Acquired
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.file_selection import AUTO
from paddock.planning.placement import Target
from paddock.planning.plan import PlanRequest
from paddock.transfer.progress import ProgressListener


@dataclass(frozen=True, slots=True)
class Pulled:
    """The result of a pull. `path` is the snapshot's directory; for a promoted snapshot, the link to it. `held_back` is
    the report for which it was not promoted, although it was to be."""

    path: Path
    published: Published
    promoted: bool
    pruned: Pruned
    seconds: float
    held_back: GateReport | None = None

    @property
    def manifest(self) -> Manifest:
        return self.published.manifest

    @property
    def acquired(self) -> tuple[Acquired, ...]:
        return self.published.acquired

    @property
    def notes(self) -> tuple[str, ...]:
        held_back = [f"it is not promoted: it was {self.held_back.line}"] if self.held_back else []
        return (*self.published.notes, *held_back)

    @property
    def transferred_bytes(self) -> int:
        return self.published.transferred_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            **self.published.to_json(),
            "promoted": self.promoted,
            "notes": list(self.notes),
            "removed": self.pruned.to_json(),
            "freed_bytes": self.pruned.freed_bytes,
            "seconds": round(self.seconds, 3),
        }


def pull(
    clients: Clients,
    wanted: Reference,
    *,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
    promote: bool = True,
    plan_request: PlanRequest = SERVED,
    target: Target | None = None,
    listener: ProgressListener | None = None,
) -> Pulled:
    """Acquire a model; with `promote`, make it the model's default, and remove old snapshots.

    Nothing is compared. But a snapshot that the gates held back before is not promoted, while what it was compared with
    is. `target` is by default this machine; the other arguments are those of AcquireRequest. Raises the errors of each
    step (`paddock.errors`). Where it raises before the promotion, the promoted snapshot is unchanged.
    """
    request = AcquireRequest(
        wanted,
        quantization,
        files,
        projector=projector,
        plan_request=plan_request,
        machine=target,
        for_promotion=promote,
    )
    return pull_with(PlainRunner(clients, listener=listener), request)


def pull_with(runner: Runner, request: AcquireRequest) -> Pulled:
    """As `pull`, with a runner."""
    began = time.monotonic()
    published = acquire(runner, request)
    manifest, pruned = published.manifest, NOTHING
    held_back = known_to_fail(runner.clients, manifest) if request.for_promotion else None
    promote = request.for_promotion and held_back is None
    if promote:
        runner.run(promote_snapshot, manifest.id, "pulled", wait_for_remote=False)
        pruned = runner.run(prune, manifest.model, manifest.variant)
    path = visible_path(runner.clients, manifest.id, promoted=promote)
    return Pulled(path, published, promote, pruned, time.monotonic() - began, held_back)
