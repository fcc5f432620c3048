"""Check that a local model fits into the free memory with given parameters, right before it is loaded.

A plan checks its own parameters (`paddock.planning.plan`). This check is for parameters from a tuning or from a caller,
and for memory that other programs have taken since the plan was made.
"""

from __future__ import annotations

from pathlib import Path

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.engine.process import shards
from paddock.errors import DoesNotFit
from paddock.gguf.reader import FileSource, read_header
from paddock.model.hardware import Machine
from paddock.model.units import human_bytes
from paddock.planning.footprint import Footprint, footprint
from paddock.planning.placement import GPU_MARGIN_BYTES, Target, memory_shortfall


def check_fits(path: Path, parameters: Parameters, memory: Memory, machine: Machine) -> None:
    """Raise DoesNotFit if a model needs more memory than is free on the host, or on a GPU if the engine uses GPUs.

    `path` is the GGUF, or the first shard of a split one; `memory` is the engine's prediction for `parameters`.
    """
    parts = (
        f"(weights {human_bytes(memory.weights_bytes)},"
        f" KV cache of {parameters.n_ctx} tokens {human_bytes(memory.kv_cache_bytes)},"
        f" compute and output {human_bytes(memory.compute_bytes + memory.output_bytes)},"
    )
    cure = "choose a smaller quantization or a smaller context, or free memory"
    if not memory.on_gpu:
        needed = memory.total_bytes + MARGIN_BYTES
        if needed > machine.ram_available_bytes:
            raise DoesNotFit(
                f"{path.name} needs {human_bytes(needed)} {parts} margin {human_bytes(MARGIN_BYTES)}),"
                f" and {human_bytes(machine.ram_available_bytes)} is available",
                cure=cure,
            )
        return
    shortfall = memory_shortfall(read_footprint(path), parameters, memory, machine_target(machine, on_gpu=True))
    missing = [f"{human_bytes(shortfall.gpu_bytes)} of GPU memory"] if shortfall.gpu_bytes else []
    missing += [f"{human_bytes(shortfall.host_bytes)} of host memory"] if shortfall.host_bytes else []
    if missing:
        raise DoesNotFit(
            f"{path.name} needs {human_bytes(memory.total_bytes)} {parts} margins"
            f" {human_bytes(MARGIN_BYTES)} and {human_bytes(GPU_MARGIN_BYTES)} a GPU), and"
            f" {' and '.join(missing)} are missing",
            cure=f"{cure}, or put fewer layers on the GPU",
        )


def machine_target(machine: Machine, *, on_gpu: bool, margin_bytes: int = MARGIN_BYTES) -> Target:
    """The free memory of a machine as a target, with its GPUs if `on_gpu`. A margin other than the default applies to
    the memory that holds the weights: the GPUs' if there are any, else the host's."""
    if not on_gpu:
        return Target(machine.ram_available_bytes, margin_bytes=margin_bytes)
    vram = tuple(gpu.vram_available_bytes for gpu in machine.gpus)
    return Target(machine.ram_available_bytes, vram, gpu_margin_bytes=GPU_MARGIN_BYTES + margin_bytes - MARGIN_BYTES)


def read_footprint(path: Path) -> Footprint:
    """Read the footprint of a local GGUF from the headers of all its shards.

    Raises NotGguf, MalformedGguf, MissingShard and NoSuchFile.
    """
    headers = []
    for shard in shards(path):
        with FileSource(shard) as source:
            headers.append(read_header(source))
    return footprint(headers[0], [tensor for header in headers for tensor in header.tensors])
