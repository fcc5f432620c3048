"""Serve a snapshot of the volume: plan its parameters, lease it while it is served, and record its usage.

The snapshot is resolved at the start. Then the server follows the name that it was given, unless that names a revision
(`paddock.lifecycle.run.follow`). The server itself is `paddock.serving`.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddock.engine.facts import engine_version
from paddock.engine.oracle import measure_memory
from paddock.errors import DoesNotFit, NoSuchFile
from paddock.gguf.directory import get_gguf_file_path, local_kind
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.audit import audit_paths, shards_of
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import counting_failures
from paddock.lifecycle.run.benchmark import with_threads
from paddock.lifecycle.run.follow import followed_name
from paddock.lifecycle.run.servable import NO_CHAT, added_pooling, projector_of, require_servable
from paddock.lifecycle.run.tune import apply_tuning
from paddock.lifecycle.uses import record_use, share_usage
from paddock.model.artifact import Manifest
from paddock.model.gpu import detect_gpus
from paddock.model.hardware import Machine, this_machine
from paddock.model.reference import Reference
from paddock.planning.plan import PlanRequest
from paddock.planning.profile import PROFILES, ProfileName
from paddock.serving.engine.llama_server import LlamaServerProgram, find_program
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.http.binding import Binding
from paddock.serving.service import Callbacks, ServerAddress, ServiceLimits, serve
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.guard import PromotionGuard

_LOG = logging.getLogger(__name__)
PARALLEL = 4
"""The number of concurrent requests by default, if the memory suffices; else 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Options of a server.

    | field | None means |
    |---|---|
    | `context_tokens`, for each request | the profile's context |
    | `parallel`, concurrent requests | PARALLEL if they fit, else 1 |
    """

    host: str = "127.0.0.1"
    port: int = 8080
    context_tokens: int | None = None
    parallel: int | None = None
    profile: ProfileName = "chat"
    kv_type: str = "f16"


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
            "server": f"llama-server {self.address.server_version}",
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
    name: Reference | None = None,
    guard: PromotionGuard | None = None,
    on_ready: Callable[[Serving], None],
    on_switch: Callable[[Serving], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> signal.Signals | None:
    """Serve until a signal is received or `stop` is set, and return the signal (see `service.serve`). `on_ready` is
    called once, when the server is ready; a signal may come before that.

    `name` is the reference that the snapshot was found by. Without a revision in it, the server switches to what is
    promoted for it, and calls `on_switch` in a worker thread after each switch. `guard` watches what was promoted.

    Raises BadSetting, NotOnVolume, FileNotInRevision, ModelRejected, DoesNotFit, ConflictingConfiguration,
    ServerUnavailable for a server that ended before it was ready, and as `service.serve`.
    """
    settings = clients.settings
    api_key = settings.api_key.get_secret_value() if settings.api_key else None
    binding = Binding(
        host=request.host,
        port=request.port,
        api_key=api_key,
        hosts=settings.serve_hosts or (),
        cors_origins=settings.cors_origins or (),
    )
    program = find_program(settings.llama_server)
    _warn_of_another_version(program)
    machine = this_machine()
    servings: list[Serving] = []

    def plan(manifest: Manifest, snapshot: Path, machine: Machine) -> ServeSpec:
        return make_spec(clients, manifest, snapshot, request, machine=machine)

    def ready(address: ServerAddress) -> None:
        servings.append(Serving(address, spec, describe_processor(machine, spec), api_key is not None))
        on_ready(servings[0])

    def switched(spec: ServeSpec) -> None:
        on_switch(replace(servings[0], spec=spec, processor=describe_processor(machine, spec)))

    limits = SupervisorLimits(start_s=settings.engine_timeout_s, busy_s=settings.engine_timeout_s)
    try:
        with counting_failures(clients), ExitStack() as lease:
            lease.enter_context(clients.volume.lease(manifest.id))
            opened = lease.enter_context(open_snapshot(clients, manifest, at_end=False))
            spec = replace(plan(manifest, opened.directory, machine), check_files=opened.require_unchanged)
            return serve(
                spec,
                binding,
                ServiceLimits(supervisor=limits, queue=settings.queue, grace_s=settings.grace_s),
                Callbacks(
                    on_ready=ready,
                    on_usage=lambda spec, usage: record_use(clients, spec.id, "serve", usage),
                    on_switch=switched,
                ),
                program=program,
                stop=stop,
                release=lease.close,
                follows=followed_name(clients, name, manifest.id, plan),
                guard=guard,
            )
    finally:
        if servings:
            share_usage(clients)


def make_spec(
    clients: Clients, manifest: Manifest, snapshot: Path, request: ServeRequest, *, machine: Machine
) -> ServeSpec:
    """Plan the files of a snapshot in a directory for this machine, with tuned parameters where it was tuned. Raises
    DoesNotFit, ConflictingConfiguration for a model that is not served, and as `preflight`."""
    file = get_gguf_file_path(snapshot)
    require_servable(manifest, local_kind(file))
    profile = PROFILES[request.profile]
    facts = audit_paths([(name, snapshot / name) for name in shards_of(snapshot)]).model
    trained = facts.context_length if facts else None
    context = request.context_tokens or min(profile.context_tokens, trained or profile.context_tokens)
    projector = projector_of(manifest, snapshot, file.relative_to(snapshot).as_posix(), machine)
    machine = projector.left_by(machine) if projector else machine
    for parallel in (request.parallel,) if request.parallel is not None else (PARALLEL, 1):
        plan_request = PlanRequest(context, parallel, request.kv_type, with_images=projector is not None)
        result = preflight(clients, str(snapshot), plan_request, machine=machine, name=str(manifest.id))
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
    if projector:  # as planned with images
        parameters = replace(parameters, n_ubatch=max(parameters.n_ubatch, planned.n_ubatch))
    if parameters != planned:
        memory = measure_memory(path, context_tokens=parameters.n_ctx, parameters=parameters)
    with FileSource(path) as source:
        pooling = added_pooling(read_header(source), result.kind)
    if pooling:
        _LOG.warning("%s does not state its pooling: its embeddings are means", manifest.repository)
    return ServeSpec(
        name=manifest.repository,
        revision=manifest.revision,
        variant=manifest.variant,
        quantization=result.quantization,
        file=path,
        chat=chat_of_snapshot(clients, manifest) if result.kind.generates_text else NO_CHAT,
        parameters=parameters,
        memory=replace(memory, projector_bytes=projector.total_bytes) if projector else memory,
        profile=profile,
        vocabulary_tokens=facts.vocab_size if facts else None,
        kind=result.kind,
        projector=projector.path if projector else None,
        image_max_tokens=parameters.n_ubatch if projector and projector.computes_whole_images else None,
        pooling=pooling,
    )


def _warn_of_another_version(program: LlamaServerProgram) -> None:
    """Warn if a llama-server that the settings name is not the engine's own version, for which the plan is made."""
    if program.is_own:
        return
    try:
        own = find_program(None).version
    except NoSuchFile:
        own = f"llama-cpp-python {engine_version()}"
    if program.version != own:
        _LOG.warning(
            "%s is version %s, but the plan is made with %s: memory may differ", program.path, program.version, own
        )


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
