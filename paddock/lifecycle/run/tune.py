"""The tuning of a snapshot on this machine: raced once, remembered on the volume, used by whoever loads it.

It is kept under the digest of the model's file (of a split one, the first), the engine's version and build, and the
machine, in `.paddock/tuning/`: another file, engine or machine has a tuning of its own or none.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from paddock.engine.facts import engine_build, engine_version
from paddock.engine.oracle import measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit, PaddockError
from paddock.lifecycle.clients import Clients
from paddock.measure.tuning import BUDGET_S, Tuning
from paddock.measure.tuning import tune as race
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.model.names import Sha256
from paddock.model.quantization import get_gguf_file_path
from paddock.planning.fitting import check_fits

_LOG = logging.getLogger(__name__)


def tune(clients: Clients, manifest: Manifest, plan: Parameters, *, budget_s: float = BUDGET_S) -> Tuning:
    """Race the settings around `plan`, and remember the outcome. Raises as `paddock.measure.tuning.tune`."""
    machine = this_machine()
    path = _path(clients, manifest)
    with clients.volume.lease(manifest.id):
        tuning = race(path, plan, budget_s=budget_s, machine=machine)
    clients.volume.tuning.write(_blob(clients, manifest, path), _name(machine), json.dumps(tuning.to_json(), indent=2))
    return tuning


def tuned(
    clients: Clients, manifest: Manifest, plan: Parameters, *, machine: Machine | None = None, path: Path | None = None
) -> Parameters:
    """`plan` as it is fastest here, or as it is where nobody tuned it; what the plan sets otherwise than the tuned one
    did stays.

    The result fits where the plan fits: a turn for which there is no memory now is not taken.
    """
    machine = machine or this_machine()
    path = path or _path(clients, manifest)
    tuning = recall(clients, manifest, machine=machine, path=path)
    wanted = tuning.applied(plan) if tuning else plan
    if wanted == plan:
        return plan
    try:
        needed = measure_memory(path, context_tokens=wanted.n_ctx, parameters=wanted)
        check_fits(path, wanted, needed, machine)
    except PaddockError as error:
        why = "takes more memory than there is" if isinstance(error, DoesNotFit) else "is refused by the engine"
        _LOG.warning("the tuning of %s %s: the plan's own parameters are used", manifest.repository, why)
        return plan
    return wanted


def recall(
    clients: Clients, manifest: Manifest, *, machine: Machine | None = None, path: Path | None = None
) -> Tuning | None:
    """What is remembered of this very file, engine and machine; None where nothing is, or it cannot be read."""
    blob = _blob(clients, manifest, path or _path(clients, manifest))
    text = clients.volume.tuning.read(blob, _name(machine or this_machine()))
    try:
        return Tuning.from_json(json.loads(text)) if text else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("the tuning of %s cannot be read: %s", manifest.repository, type(error).__name__)
        return None


def _path(clients: Clients, manifest: Manifest) -> Path:
    return get_gguf_file_path(clients.volume.snapshot_path(manifest.id))


def _blob(clients: Clients, manifest: Manifest, path: Path) -> Sha256:
    snapshot = clients.volume.snapshot_path(manifest.id)
    shown = path.resolve().parent.joinpath(path.name).relative_to(snapshot.resolve()).as_posix()
    return next(file.sha256 for file in manifest.files if file.path == shown)


def _name(machine: Machine) -> str:
    return f"{engine_version()}-{engine_build()}-{machine.identity}.json"
