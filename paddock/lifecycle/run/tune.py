"""Tune a snapshot on this machine: measure the engine's settings once, store the result, and apply it to later plans.

A result is stored on the volume in `.paddock/tuning/`, by the sha256 of the model's (first) file, the engine's version
and build, and the machine. It is not used for another file, engine or machine.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from paddock.engine.facts import engine_build, engine_version
from paddock.engine.oracle import measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, DoesNotFit, PaddockError
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.assess.verified import main_file, open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.uses import timed_use
from paddock.measure.tuning import BUDGET_S, Tuning
from paddock.measure.tuning import tune as measure_tuning
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.model.names import Sha256
from paddock.planning.fitting import check_fits
from paddock.untrusted.json_text import parse_object
from paddock.untrusted.records import check_record

_MAX_BYTES = 4 * 1024 * 1024
_LOG = logging.getLogger(__name__)


def tune(clients: Clients, manifest: Manifest, plan: Parameters, *, budget_s: float = BUDGET_S) -> Tuning:
    """Measure variations of `plan`, and store the result. Raises as `paddock.measure.tuning.tune`."""
    machine = this_machine()
    with (
        clients.volume.lease(manifest.id),
        timed_use(clients, manifest.id, "tune"),
        open_snapshot(clients, manifest) as opened,
    ):
        path = get_gguf_file_path(opened.directory)
        tuning = measure_tuning(path, plan, budget_s=budget_s, machine=machine)
    with clients.volume.recording():
        clients.volume.tuning.write(
            _blob(clients, manifest), _file_name(machine), json.dumps(tuning.to_json(), indent=2)
        )
    return tuning


def apply_tuning(
    clients: Clients, manifest: Manifest, plan: Parameters, *, machine: Machine | None = None, path: Path | None = None
) -> Parameters:
    """Return `plan` with the stored tuning applied, or `plan` itself where there is none. Settings in which `plan`
    differs from the plan that was tuned are kept.

    The result fits the machine if `plan` does: a tuning that needs more memory than is free is not applied.
    """
    machine = machine or this_machine()
    tuning = read_tuning(clients, manifest, machine=machine)
    if tuning is None:
        return plan
    if path is None:
        with open_snapshot(clients, manifest) as opened:
            path = get_gguf_file_path(opened.directory)
            return apply_tuning(clients, manifest, plan, machine=machine, path=path)
    try:
        tuned = tuning.applied(plan)
        threads = max(tuned.n_threads, tuned.n_threads_batch or 1)
        if threads > max(os.cpu_count() or 1, plan.n_threads, plan.n_threads_batch or 1):
            _LOG.warning("the tuning of %s is for %s threads: it is not used", manifest.repository, threads)
            return plan
        if tuned == plan:
            return plan
        memory = measure_memory(path, context_tokens=tuned.n_ctx, parameters=tuned)
        check_fits(path, tuned, memory, machine)
    except PaddockError as error:
        reason = "takes more memory than is free" if isinstance(error, DoesNotFit) else "is refused by the engine"
        _LOG.warning("the tuning of %s %s: the plan's own parameters are used", manifest.repository, reason)
        return plan
    return tuned


def read_tuning(clients: Clients, manifest: Manifest, *, machine: Machine | None = None) -> Tuning | None:
    """The stored tuning of this file, engine and machine; None where there is none, or it cannot be parsed."""
    text = clients.volume.tuning.read(_blob(clients, manifest), _file_name(machine or this_machine()))
    try:
        value = parse_object(text, max_bytes=_MAX_BYTES, strict=False) if text else None
        return check_record(Tuning.from_json(value)) if value else None
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, BadSetting) as error:
        _LOG.warning("the tuning of %s cannot be read: %s", manifest.repository, type(error).__name__)
        return None


def _blob(clients: Clients, manifest: Manifest) -> Sha256:
    path = main_file(clients, manifest)
    return next(file.sha256 for file in manifest.files if file.path == path)


def _file_name(machine: Machine) -> str:
    return f"{engine_version()}-{engine_build()}-{machine.identity}.json"
