"""Record the memory that real loads took, and derive the margin of a plan from it.

The observations are on the volume, in `reports/memory/<architecture>.<engine>.<device>.json`. When two workers write at
the same time one of the two observations is lost; the next load adds another.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING

from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import PaddockError
from paddock.gguf.directory import get_gguf_file_path
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine
from paddock.model.units import human_bytes
from paddock.planning.drift import KEPT_LOADS, MeasuredLoad, margin_bytes
from paddock.untrusted.json_text import parse_json
from paddock.untrusted.records import check_record

if TYPE_CHECKING:
    from paddock.measure.benchmark_report import Benchmark

_LOG = logging.getLogger(__name__)
_MAX_NOTE_BYTES = 1024 * 1024
_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def record_observation(clients: Clients, manifest: Manifest, measured: Benchmark) -> MeasuredLoad | None:
    """Record the memory that a load took, and the memory that is predicted from the header for the same parameters.

    Returns None, and logs a warning, where that fails: a benchmark does not fail for it.
    """
    try:
        return _record(clients, manifest, measured)
    except PaddockError as error:
        _LOG.warning("the memory that the load of %s took was not recorded: %s", manifest.repository, error.message)
        return None


def _record(clients: Clients, manifest: Manifest, measured: Benchmark) -> MeasuredLoad:
    parameters = Parameters.from_json(measured.parameters)
    with open_snapshot(clients, manifest) as opened:
        path = get_gguf_file_path(opened.directory)
        predicted = measure_memory(path, context_tokens=parameters.n_ctx, parameters=parameters)
        with FileSource(path) as source:
            architecture = read_header(source).architecture
    on_cpu = not measured.memory.on_gpu
    load = MeasuredLoad(
        predicted_bytes=predicted.total_bytes,
        engine_bytes=measured.memory.total_bytes,
        system_bytes=measured.peak_rss_bytes if on_cpu else None,
    )
    name = _file_name(architecture, measured.engine, _device(measured.machine, on_cpu=on_cpu))
    loads = [*_read(clients, name), load][-KEPT_LOADS:]
    with clients.volume.recording():
        clients.volume.notes.write(name, json.dumps([load.to_json() for load in loads]))
    if load.drift:
        margin = human_bytes(margin_bytes(loads))
        _LOG.warning("%s: %s; plans for it leave a margin of %s", manifest.repository, load.drift, margin)
    return load


def margin_for(clients: Clients, architecture: str, engine: str, machine: Machine, *, on_cpu: bool) -> int:
    """The margin of a plan in bytes, from the observed loads of the same architecture, engine and device; MARGIN_BYTES
    where they cannot be read."""
    try:
        return margin_bytes(_read(clients, _file_name(architecture, engine, _device(machine, on_cpu=on_cpu))))
    except PaddockError:
        return MARGIN_BYTES


def _read(clients: Clients, name: str) -> list[MeasuredLoad]:
    """The last loads of a note."""
    try:
        loads = parse_json(clients.volume.notes.read(name) or "[]", max_bytes=_MAX_NOTE_BYTES)
        if not isinstance(loads, list):
            raise TypeError("not a list")
        return [check_record(MeasuredLoad.from_json(load)) for load in loads[-KEPT_LOADS:]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("%s cannot be read (%s); it will be replaced", name, type(error).__name__)
        return []


def _device(machine: Machine, *, on_cpu: bool) -> str:
    return machine.cpu if on_cpu or not machine.gpus else machine.gpus[0].name


def _file_name(architecture: str | None, engine: str, device: str) -> str:
    """Relative to the volume's reports: each part reduced to 60 characters of `a-z0-9._-`."""
    parts = (architecture or "", engine, device)
    safe = (_UNSAFE.sub("-", part.lower()).strip("-.")[:60] or "unknown" for part in parts)
    return f"memory/{'.'.join(safe)}.json"
