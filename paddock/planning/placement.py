"""Place the layers of a model on GPUs and host: as many as fit on the GPUs, and the rest on the host.

llama.cpp offloads the last `n_gpu_layers` of the layers plus the output, which counts as one layer, and assigns
consecutive runs of them to the GPUs by `tensor_split`. The token embedding stays in host memory, and so does everything
that belongs to a layer that is not offloaded. Each device is checked against its own free memory.

The engine's figures are totals of the model; they are distributed over the layers in proportion to the `Footprint`. The
memory that a GPU needs in addition to its layers is bounded from above by the engine's figure for one device that
computes everything.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.planning.footprint import Footprint

GPU_MARGIN_BYTES = 768 * 2**20
"""Memory that CUDA takes on each GPU with layers, for its context and its libraries' workspaces, plus a reserve. 606 to
631 MiB, in addition to the engine's buffers, were measured on an H100 with CUDA 13.0."""


@dataclass(frozen=True, slots=True)
class Target:
    """The memory of a machine that is available to a model, in bytes; `vram_bytes` has one element for each GPU.
    `margin_bytes` of host memory and `gpu_margin_bytes` of each GPU's memory stay free."""

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()
    margin_bytes: int = MARGIN_BYTES
    gpu_margin_bytes: int = GPU_MARGIN_BYTES


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of the layers, as parameters of llama.cpp.

    `n_gpu_layers` is -1 for all, `tensor_split` the number of layers on each GPU, empty for a single one.
    `weights_bytes` is the memory of the weights on all devices together; only weights on the host are repacked.
    `given_up` are sentences on what is not on a GPU.
    """

    n_gpu_layers: int
    weights_bytes: int
    tensor_split: tuple[float, ...] = ()
    given_up: tuple[str, ...] = ()


def place(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> Placement | None:
    """Put as many layers on the GPUs as fit; None if the remaining ones do not fit on the host."""
    costs = _Costs.of(model, parameters, memory)
    offloaded, split = _offload(costs, target)
    if costs.host(len(costs.items) - offloaded) + target.margin_bytes > target.ram_bytes:
        return None
    if not offloaded:
        given_up = ("n_gpu_layers: 0, since not even the output fits on the GPU",) if target.vram_bytes else ()
        return Placement(0, _without_copy(model, parameters, memory), given_up=given_up)
    whole = offloaded == len(costs.items)
    shares = tuple(map(float, split)) if len(split) > 1 else ()
    weights = costs.host(len(costs.items) - offloaded) + sum(costs.items[-offloaded:])
    weights -= memory.kv_cache_bytes + memory.compute_bytes + memory.output_bytes
    given_up = () if whole else (f"n_gpu_layers: {offloaded} of {len(costs.items)} fit on the GPU",)
    return Placement(-1 if whole else offloaded, weights, shares, given_up)


def host_shortfall_bytes(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> int:
    """The host memory that is missing, in bytes, if as many layers as fit are on the GPUs; 0 if it fits."""
    costs = _Costs.of(model, parameters, memory)
    offloaded, _ = _offload(costs, target)
    return max(costs.host(len(costs.items) - offloaded) + target.margin_bytes - target.ram_bytes, 0)


@dataclass(frozen=True, slots=True)
class MemoryShortfall:
    """The missing memory in bytes: on the host, and the sum over the GPUs."""

    host_bytes: int
    gpu_bytes: int


def memory_shortfall(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> MemoryShortfall:
    """The missing memory if the layers are placed as `parameters` say, by llama.cpp's rule.

    The rule: number the n offloaded layers from 0, and normalize the cumulative sums of `tensor_split` (default: the
    free memory of the GPUs) to 1. Layer i goes to the first GPU whose cumulative share is greater than i / n.
    """
    costs = _Costs.of(model, parameters, memory)
    offloaded = costs.offloaded(parameters) if target.vram_bytes else 0
    host = costs.host(len(costs.items) - offloaded) + target.margin_bytes - target.ram_bytes
    missing = [
        size + target.gpu_margin_bytes - available
        for size, available in zip(
            gpu_bytes(model, parameters, memory, target.vram_bytes), target.vram_bytes, strict=True
        )
        if size
    ]
    return MemoryShortfall(max(host, 0), sum(max(size, 0) for size in missing))


def gpu_bytes(model: Footprint, parameters: Parameters, memory: Memory, vram_bytes: tuple[int, ...]) -> tuple[int, ...]:
    """The memory of the engine's buffers on each GPU, by the rule of `memory_shortfall`; 0 where no layer is."""
    if not vram_bytes:
        return ()
    costs = _Costs.of(model, parameters, memory)
    offloaded = costs.offloaded(parameters)
    layer_bytes = [0] * len(vram_bytes)
    ends = list(accumulate((parameters.tensor_split or vram_bytes)[: len(layer_bytes)]))
    for number, item in enumerate(costs.items[len(costs.items) - offloaded :]):
        gpu = min(bisect_right(ends, number * ends[-1] / offloaded), len(layer_bytes) - 1)
        layer_bytes[gpu] += item
    return tuple(size + costs.compute_bytes if size else 0 for size in layer_bytes)


@dataclass(frozen=True, slots=True)
class _Costs:
    """Bytes of each layer and then the output, if on a GPU (`items`) or on the host (`on_host`), and of the rest.

    `fixed_bytes` are needed on the host in any case, `compute_bytes` on each device that computes.
    """

    items: tuple[int, ...]
    on_host: tuple[int, ...]
    fixed_bytes: int
    compute_bytes: int

    @classmethod
    def of(cls, model: Footprint, parameters: Parameters, memory: Memory) -> _Costs:
        caches = [model.cache_bytes(layer, parameters) for layer in model.layers]
        sum_of_caches = sum(caches)
        caches = [-(-memory.kv_cache_bytes * cache // sum_of_caches) if sum_of_caches else 0 for cache in caches]
        weights = [layer.weights_bytes for layer in model.layers]
        items = [weight + cache for weight, cache in zip(weights, caches, strict=True)]
        # the excess of the host's memory over the size in the file comes from repacked weights of layers
        repacked = max(_without_copy(model, parameters, memory) - model.weights_bytes, 0)
        sum_of_weights = sum(weights) or 1
        on_host = [item - (-repacked * weight // sum_of_weights) for item, weight in zip(items, weights, strict=True)]
        return cls(
            items=(*items, model.offloaded_output_bytes),
            on_host=(*on_host, model.output_bytes),
            fixed_bytes=model.input_bytes + memory.output_bytes + memory.compute_bytes,
            compute_bytes=memory.compute_bytes,
        )

    def offloaded(self, parameters: Parameters) -> int:
        """Number of the last items that `parameters` put on GPUs."""
        count = len(self.items)
        return count if parameters.n_gpu_layers < 0 else min(parameters.n_gpu_layers, count)

    def host(self, layers: int) -> int:
        """Host memory in bytes if the first `layers` of the items stay there."""
        return self.fixed_bytes + sum(self.on_host[:layers])


def _without_copy(model: Footprint, parameters: Parameters, memory: Memory) -> int:
    """The bytes of the weights without the copy of a tied embedding that the engine makes on a GPU."""
    copied = memory.on_gpu and parameters.n_gpu_layers != 0
    return memory.weights_bytes - (model.offloaded_output_bytes - model.output_bytes if copied else 0)


def _offload(costs: _Costs, target: Target) -> tuple[int, tuple[int, ...]]:
    """(number of the last items that fit on the GPUs, number of them on each GPU)."""
    for count in range(len(costs.items), 0, -1):
        split = _split(costs.items[-count:], costs.compute_bytes + target.gpu_margin_bytes, target.vram_bytes)
        if split is not None:
            return count, split
    return 0, ()


def _split(items: tuple[int, ...], fixed_bytes: int, vram_bytes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Fill the GPUs one after another with `items` in order, and return the number on each; None if some do not fit.

    `fixed_bytes` of each GPU are not available to items.
    """
    counts = []
    position = 0
    for available in vram_bytes:
        free = available - fixed_bytes
        start = position
        while position < len(items) and items[position] <= free:
            free -= items[position]
            position += 1
        counts.append(position - start)
    return tuple(counts) if position == len(items) else None
