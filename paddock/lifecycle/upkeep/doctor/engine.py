"""Checks of the engine: that its library and llama-server start, whether it computes on the GPUs that are there, and
whether it measured what is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from paddock.engine.facts import EngineBuild, describe_build
from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.engine_change import promoted_with_other_engines
from paddock.lifecycle.upkeep.doctor.check import CheckResult, failure
from paddock.model.gpu import DetectedGpus, detect_gpus
from paddock.model.units import human_bytes
from paddock.serving.engine.llama_server import find_program

_NAMED: Final = 5
_SETUP: Final = "run `make setup`, or install the engine's wheel again"
_GPU_SETUP: Final = "build it for them: `CMAKE_ARGS=-DGGML_CUDA=ON make setup`"


def check_engine(clients: Clients) -> Sequence[CheckResult]:  # noqa: ARG001 - the signature of a check
    """The engine's library is recent enough and can be loaded, and computes on the GPUs that are there."""
    try:
        build = describe_build()
    except PaddockError as error:
        return [CheckResult("engine", False, error.message, error.cure or _SETUP)]
    features = build.features.replace(" = 1", "").replace(" | ", ", ").replace(" :", ":")
    loaded = CheckResult("engine", True, f"llama-cpp-python {build.version}, {features}")
    return [loaded, gpu_result(detect_gpus(), build)]


def check_llama_server(clients: Clients) -> Sequence[CheckResult]:
    """llama-server can be started."""
    try:
        program = find_program(clients.settings.llama_server)
    except PaddockError as error:
        return [failure("llama-server", error)]
    if program.version == "unknown":
        message = f"{program.path} does not start, or prints no version"
        cure = _SETUP if program.is_own else "correct PADDOCK_LLAMA_SERVER, or unset it to use the engine's own"
        return [CheckResult("llama-server", False, message, cure)]
    own = "built with the engine" if program.is_own else "of PADDOCK_LLAMA_SERVER"
    return [CheckResult("llama-server", True, f"version {program.version}, {own}")]


def check_measurements(clients: Clients) -> Sequence[CheckResult]:
    """Check that the installed engine measured the promoted snapshots."""
    if not clients.volume.exists:
        return []
    found = list(promoted_with_other_engines(clients))
    if not found:
        return [CheckResult("measurements", True, "what is promoted was measured with this engine")]
    named = [f"{manifest.id.short} ({change.line})" for manifest, change in found[:_NAMED]]
    named += [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    message = f"promoted, and measured with another engine: {', '.join(named)}"
    manifest, _ = found[0]
    cure = f"`paddock refresh` measures what the catalog wants anew, and `paddock bench {manifest.id}` any other"
    return [CheckResult("measurements", False, message, cure, needed=False)]


def gpu_result(detected: DetectedGpus, build: EngineBuild) -> CheckResult:
    """The result for these GPUs and this build. A machine without a GPU computes on its processor."""
    if not detected.gpus:
        if build.is_for_gpus:
            message = f"the engine is built for GPUs, and none can be used: {detected.unavailable_reason}"
            cure = "install the driver, give the container its GPUs, or check CUDA_VISIBLE_DEVICES"
            return CheckResult("GPU", False, message, cure, needed=False)
        return CheckResult("GPU", True, f"none: {detected.unavailable_reason}")
    listed = ", ".join(f"{gpu.name} with {human_bytes(gpu.vram_bytes)}" for gpu in detected.gpus)
    if not build.uses_gpus:
        if build.is_for_gpus:
            message, cure = f"the engine does not find {listed}", "install a driver that is as new as its CUDA"
        else:
            message, cure = f"the engine is built for the processor alone, and there is {listed}", _GPU_SETUP
        return CheckResult("GPU", False, message, cure, needed=False)
    return CheckResult("GPU", True, listed)
