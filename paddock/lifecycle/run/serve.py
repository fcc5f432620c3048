"""Serving a snapshot of the volume: what is offered is planned from its header, leased while it is served, and its use
is written down.

The snapshot is resolved to its real directory once. What is promoted meanwhile is served by the next start.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.engine.oracle import measure_memory
from paddock.errors import DoesNotFit, PaddockError
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.assess.validate import audit_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.benchmark import with_threads
from paddock.lifecycle.run.tune import tuned
from paddock.model.artifact import Manifest
from paddock.model.gpu import detect_gpus
from paddock.model.hardware import Machine, this_machine
from paddock.planning.plan import PlanRequest
from paddock.planning.profile import PROFILES, ProfileName
from paddock.serving.binding import Binding
from paddock.serving.servers import ServerName, choose_server
from paddock.serving.service import Callbacks, ServerAddress, ServiceLimits, serve
from paddock.serving.spec import ServeSpec
from paddock.serving.supervisor import SupervisorLimits
from paddock.store.volume.usage import Usage

_LOG = logging.getLogger(__name__)
PARALLEL = 4
"""How many requests llama-server answers at once where nobody says, and the memory is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """What is asked of a server. None is: the profile's context, as many requests at once as suit the server, and
    llama-server where it is on the PATH."""

    host: str = "127.0.0.1"
    port: int = 8080
    context_tokens: int | None = None
    parallel: int | None = None
    profile: ProfileName = "chat"
    kv_type: str = "f16"
    server: ServerName | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that is being served. `processor` says in words what computes."""

    address: ServerAddress
    offer: ServeSpec
    processor: str
    needs_key: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "address": self.address.url,
            "base_url": f"{self.address.url}/v1",
            "model": self.offer.name,
            "revision": self.offer.revision,
            "variant": self.offer.variant,
            "quantization": self.offer.quantization,
            "server": self.address.server,
            "processor": self.processor,
            "needs_key": self.needs_key,
            "load_seconds": round(self.address.load_s, 3),
            "memory": self.offer.memory.to_json(),
            "parameters": self.offer.parameters.to_json(),
        }


def serve_snapshot(
    clients: Clients,
    manifest: Manifest,
    order: ServeRequest,
    *,
    ready: Callable[[Serving], None],
    stop: threading.Event | None = None,
) -> signal.Signals | None:
    """Serve until a signal comes (see `service.serve`), and return it. `ready` is called once, when it answers; a
    signal may come before that.

    Raises BadSetting, NotOnVolume, FileNotInRevision, ModelRejected, DoesNotFit, ConflictingConfiguration,
    ServerUnavailable for a server that ended before it was ready, and as `service.serve`.
    """
    known = clients.settings
    api_key = known.api_key.get_secret_value() if known.api_key else None
    binding = Binding(host=order.host, port=order.port, api_key=api_key)
    program = choose_server(order.server)
    machine = this_machine()
    with clients.volume.lease(manifest.id) as snapshot:
        offer = make_spec(clients, manifest, snapshot.resolve(), order, has_slots=program is not None, machine=machine)
        serving = processor_words(machine, offer)

        def used(one: Usage) -> None:
            try:
                clients.volume.usage.add(manifest.id, one)
            except PaddockError as error:  # a full disk is no reason to stop answering
                _LOG.warning("the use of %s was not written down: %s", manifest.repository, error)

        limits = SupervisorLimits(start_s=known.engine_timeout_s, busy_s=known.engine_timeout_s)
        return serve(
            offer,
            binding,
            ServiceLimits(supervisor=limits, queue=known.queue, grace_s=known.grace_s),
            Callbacks(
                on_ready=lambda address: ready(Serving(address, offer, serving, api_key is not None)),
                on_usage=used,
            ),
            program=program,
            stop=stop,
        )


def make_spec(
    clients: Clients, manifest: Manifest, snapshot: Path, order: ServeRequest, *, has_slots: bool, machine: Machine
) -> ServeSpec:
    """The plan for a snapshot on this machine, as it will be served."""
    profile = PROFILES[order.profile]
    facts = audit_snapshot(clients, manifest).model
    trained = facts.context_length if facts else None
    context = order.context_tokens or min(profile.context_tokens, trained or profile.context_tokens)
    for parallel in _parallels(order.parallel, has_slots=has_slots):
        wish = PlanRequest(context, parallel, order.kv_type)
        found = preflight(clients, str(snapshot), wish, machine=machine)
        if found.plan.fits:
            break
    else:
        raise DoesNotFit(
            f"{manifest.repository} does not fit with {context} tokens of context for {parallel} request(s) at once:"
            f" {'; '.join(found.plan.given_up)}",
            cure=found.advice or "use a smaller context",
        )
    planned = with_threads(found.plan.parameters, clients.settings.threads)
    parameters, memory = (
        tuned(clients, manifest, planned, machine=machine, path=snapshot / found.file),
        found.plan.memory,
    )
    if parameters != planned:
        memory = measure_memory(snapshot / found.file, context_tokens=parameters.n_ctx, parameters=parameters)
    return ServeSpec(
        name=manifest.repository,
        revision=manifest.revision,
        variant=manifest.variant,
        quantization=found.quantization,
        file=snapshot / found.file,
        chat=chat_of_snapshot(clients, manifest),
        parameters=parameters,
        memory=memory,
        profile=profile,
    )


def _parallels(asked: int | None, *, has_slots: bool) -> tuple[int, ...]:
    """What to try, the best first. llama-cpp-python's server answers one request at a time, whatever is asked: a
    context for more would be memory for nothing."""
    if not has_slots:
        if asked is not None and asked > 1:
            _LOG.warning("llama-cpp-python's server answers one request at a time: --parallel needs llama-server")
        return (1,)
    return (asked,) if asked is not None else (PARALLEL, 1)


def processor_words(machine: Machine, offer: ServeSpec) -> str:
    """What computes, and why it is not a GPU where it is not."""
    if offer.on_gpu:
        cards = Counter(gpu.name for gpu in machine.gpus)
        names = ", ".join(name if number == 1 else f"{number} x {name}" for name, number in cards.items())
        layers = offer.parameters.n_gpu_layers
        return f"GPU: {names or ', '.join(offer.memory.devices)}" + (
            f", {layers} layers of the model" if layers > 0 else ""
        )
    if not machine.gpus:
        return f"CPU: {detect_gpus().unavailable_reason}"
    if not offer.memory.on_gpu:
        return (
            "CPU: the installed engine was built without GPU support (CMAKE_ARGS=-DGGML_CUDA=ON make setup builds it)"
        )
    return "CPU: not one layer fits on the GPU"
