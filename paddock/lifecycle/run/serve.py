"""Serve a snapshot of the volume: plan its parameters, lease it while it is served, and record its usage.

The snapshot is resolved once, at the start. A later promotion takes effect with the next start. The server itself is
`paddock.serving`.
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
from paddock.gguf.directory import get_gguf_file_path, local_kind
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.assess.validate import audit_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.benchmark import require_text, with_threads
from paddock.lifecycle.run.tune import apply_tuning
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
"""The number of concurrent requests of llama-server by default, if the memory suffices; else 1."""


_SERVER_OPTIONS = {ModelKind.EMBEDDING: "--embedding", ModelKind.RERANKER: "--reranking"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Options of a server.

    | field | None means |
    |---|---|
    | `context_tokens`, for each request | the profile's context |
    | `parallel`, concurrent requests | PARALLEL with llama-server if they fit, else 1 |
    | `server` | llama-server if it is on the PATH, else llama-cpp-python |
    """

    host: str = "127.0.0.1"
    port: int = 8080
    context_tokens: int | None = None
    parallel: int | None = None
    profile: ProfileName = "chat"
    kv_type: str = "f16"
    server: ServerName | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that is being served. `processor` describes for people what computes, such as `GPU: NVIDIA H200`."""

    address: ServerAddress
    spec: ServeSpec
    processor: str
    needs_key: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "address": self.address.url,
            "base_url": f"{self.address.url}/v1",
            "model": self.spec.name,
            "revision": self.spec.revision,
            "variant": self.spec.variant,
            "quantization": self.spec.quantization,
            "server": self.address.server,
            "processor": self.processor,
            "needs_key": self.needs_key,
            "load_seconds": round(self.address.load_s, 3),
            "memory": self.spec.memory.to_json(),
            "parameters": self.spec.parameters.to_json(),
        }


def serve_snapshot(
    clients: Clients,
    manifest: Manifest,
    request: ServeRequest,
    *,
    on_ready: Callable[[Serving], None],
    stop: threading.Event | None = None,
) -> signal.Signals | None:
    """Serve until a signal is received or `stop` is set, and return the signal (see `service.serve`). `on_ready` is
    called once, when the server is ready; a signal may come before that.

    Raises BadSetting, NotOnVolume, FileNotInRevision, ModelRejected, DoesNotFit, ConflictingConfiguration,
    ServerUnavailable for a server that ended before it was ready, and as `service.serve`.
    """
    settings = clients.settings
    api_key = settings.api_key.get_secret_value() if settings.api_key else None
    binding = Binding(host=request.host, port=request.port, api_key=api_key)
    program = choose_server(request.server)
    machine = this_machine()
    _require_chat(clients, manifest)
    with clients.volume.lease(manifest.id) as snapshot:
        spec = make_spec(clients, manifest, snapshot.resolve(), request, has_slots=program is not None, machine=machine)
        processor = describe_processor(machine, spec)

        def record_usage(usage: Usage) -> None:
            try:
                with clients.volume.recording():
                    clients.volume.usage.add(manifest.id, usage)
            except PaddockError as error:  # the server goes on
                _LOG.warning("the usage of %s was not recorded: %s", manifest.repository, error)

        limits = SupervisorLimits(start_s=settings.engine_timeout_s, busy_s=settings.engine_timeout_s)
        return serve(
            spec,
            binding,
            ServiceLimits(supervisor=limits, queue=settings.queue, grace_s=settings.grace_s),
            Callbacks(
                on_ready=lambda address: on_ready(Serving(address, spec, processor, api_key is not None)),
                on_usage=record_usage,
            ),
            program=program,
            stop=stop,
        )


def _require_chat(clients: Clients, manifest: Manifest) -> None:
    """Raise ConflictingConfiguration for a model that nobody chats with: others are not served yet."""
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    kind = local_kind(path)
    option = _SERVER_OPTIONS.get(kind)
    cure = f"run `llama-server {option} --model {path}`" if option else "serve a language model"
    require_text(manifest, kind, "answers no chats, and Paddock serves nothing else yet", cure)


def make_spec(
    clients: Clients, manifest: Manifest, snapshot: Path, request: ServeRequest, *, has_slots: bool, machine: Machine
) -> ServeSpec:
    """Plan a snapshot for this machine, with tuned parameters where it was tuned. `has_slots`: the server answers
    several requests at once. Raises DoesNotFit, and as `preflight`."""
    profile = PROFILES[request.profile]
    facts = audit_snapshot(clients, manifest).model
    trained = facts.context_length if facts else None
    context = request.context_tokens or min(profile.context_tokens, trained or profile.context_tokens)
    for parallel in _parallel_candidates(request.parallel, has_slots=has_slots):
        plan_request = PlanRequest(context, parallel, request.kv_type)
        result = preflight(clients, str(snapshot), plan_request, machine=machine)
        if result.plan.fits:
            break
    else:
        raise DoesNotFit(
            f"{manifest.repository} does not fit with {context} tokens of context for {parallel} request(s) at once:"
            f" {'; '.join(result.plan.given_up)}",
            cure=result.advice or "use a smaller context",
        )
    path = snapshot / result.file
    planned, memory = with_threads(result.plan.parameters, clients.settings.threads), result.plan.memory
    parameters = apply_tuning(clients, manifest, planned, machine=machine, path=path)
    if parameters != planned:
        memory = measure_memory(path, context_tokens=parameters.n_ctx, parameters=parameters)
    return ServeSpec(
        name=manifest.repository,
        revision=manifest.revision,
        variant=manifest.variant,
        quantization=result.quantization,
        file=path,
        chat=chat_of_snapshot(clients, manifest),
        parameters=parameters,
        memory=memory,
        profile=profile,
    )


def _parallel_candidates(requested: int | None, *, has_slots: bool) -> tuple[int, ...]:
    """The numbers of concurrent requests to try, best first. llama-cpp-python's server answers one request at a time:
    a context for more would waste memory."""
    if not has_slots:
        if requested is not None and requested > 1:
            _LOG.warning("llama-cpp-python's server answers one request at a time: --parallel needs llama-server")
        return (1,)
    return (requested,) if requested is not None else (PARALLEL, 1)


def describe_processor(machine: Machine, spec: ServeSpec) -> str:
    """The GPUs that compute, or the CPU and the reason why no GPU does."""
    if spec.on_gpu:
        cards = Counter(gpu.name for gpu in machine.gpus)
        names = ", ".join(name if number == 1 else f"{number} x {name}" for name, number in cards.items())
        layers = spec.parameters.n_gpu_layers
        return f"GPU: {names or ', '.join(spec.memory.devices)}" + (
            f", {layers} layers of the model" if layers > 0 else ""
        )
    if not machine.gpus:
        return f"CPU: {detect_gpus().unavailable_reason}"
    if not spec.memory.on_gpu:
        return (
            "CPU: the installed engine was built without GPU support (CMAKE_ARGS=-DGGML_CUDA=ON make setup builds it)"
        )
    return "CPU: not one layer fits on the GPU"
