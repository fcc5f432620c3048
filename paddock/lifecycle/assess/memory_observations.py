"""What real loads took, kept on the volume: `reports/memory/<architecture>.<engine>.<device>.json`.

Two workers that write at once lose one of two figures, which the next load brings again.
"""

from __future__ import annotations

import json
import logging
import re

from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import PaddockError
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.clients import Clients
from paddock.measure.benchmark import Benchmark
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine
from paddock.model.quantization import get_gguf_file_path
from paddock.model.units import human_bytes
from paddock.planning.drift import KEPT_LOADS, MeasuredLoad, margin_bytes

_LOG = logging.getLogger(__name__)
_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def record_observation(clients: Clients, manifest: Manifest, measured: Benchmark) -> MeasuredLoad | None:
    """Keep what a load took beside what the header predicts for the same parameters. It is a note and no more: where
    it cannot be made, that is logged."""
    try:
        return _note(clients, manifest, measured)
    except PaddockError as error:
        _LOG.warning("what the load of %s took was not kept: %s", manifest.repository, error.message)
        return None


def _note(clients: Clients, manifest: Manifest, measured: Benchmark) -> MeasuredLoad:
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    parameters = Parameters.from_json(measured.parameters)
    predicted = measure_memory(path, context_tokens=parameters.n_ctx, parameters=parameters)
    on_cpu = not measured.memory.on_gpu
    load = MeasuredLoad(
        predicted_bytes=predicted.total_bytes,
        engine_bytes=measured.memory.total_bytes,
        system_bytes=measured.peak_rss_bytes if on_cpu else None,
    )
    with FileSource(path) as source:
        architecture = read_header(source).architecture
    name = _name(architecture, measured.engine, _device(measured.machine, on_cpu=on_cpu))
    kept = [*_loads(clients, name), load][-KEPT_LOADS:]
    clients.volume.notes.write(name, json.dumps([one.to_json() for one in kept]))
    if load.drift:
        margin = human_bytes(margin_bytes(kept))
        _LOG.warning("%s: %s; plans for it keep %s free", manifest.repository, load.drift, margin)
    return load


def margin_for(clients: Clients, architecture: str, engine: str, machine: Machine, *, on_cpu: bool) -> int:
    """The margin of a plan, by what loads of its kind took on this volume's workers."""
    try:
        return margin_bytes(_loads(clients, _name(architecture, engine, _device(machine, on_cpu=on_cpu))))
    except PaddockError:  # a volume that cannot be read holds no plan up
        return MARGIN_BYTES


def _loads(clients: Clients, name: str) -> list[MeasuredLoad]:
    try:
        return [MeasuredLoad.from_json(one) for one in json.loads(clients.volume.notes.read(name) or "[]")]
    except (ValueError, TypeError, KeyError) as error:
        _LOG.warning("%s cannot be read (%s); it is written anew", name, type(error).__name__)
        return []


def _device(machine: Machine, *, on_cpu: bool) -> str:
    return machine.cpu if on_cpu or not machine.gpus else machine.gpus[0].name


def _name(architecture: str | None, engine: str, device: str) -> str:
    clients = (
        _UNSAFE.sub("-", part.lower()).strip("-.")[:60] or "unknown" for part in (architecture or "", engine, device)
    )
    return f"memory/{'.'.join(clients)}.json"
