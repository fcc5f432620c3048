"""Where each layer of a model lies: which fit on the GPUs, and what stays with the processor.

llama.cpp offloads the last `n_gpu_layers` of the layers and the output, which counts as one more, and gives each GPU a
run of them by `tensor_split`. The embedding stays in the host's memory, and so does everything of a layer that is not
offloaded. Each part has its own room: what is free on the host is of no use to a GPU.

The engine's figures are of a whole model; a layer's part of them follows its `Footprint`. What a GPU holds beside the
layers is bounded from above by what the engine says for one device that computes everything.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.planning.footprint import Footprint

GPU_MARGIN_BYTES = 768 * 2**20
"""What CUDA itself takes on each GPU that has layers, its context and its libraries' workspaces (606 to 631 MiB beside
the engine's buffers on an H100 with CUDA 13.0), and some air."""


@dataclass(frozen=True, slots=True)
class Target:
    """The memory of a machine in bytes, what other programs use of it left out. No `vram_bytes`: no GPU.
    `margin_bytes` of the host's memory stay free, and `gpu_margin_bytes` of each GPU's."""

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()
    margin_bytes: int = MARGIN_BYTES
    gpu_margin_bytes: int = GPU_MARGIN_BYTES


@dataclass(frozen=True, slots=True)
class Placement:
    """`n_gpu_layers` is -1 for all, `tensor_split` the layers of each of several GPUs. `weights_bytes` is what the
    weights take on all devices together: repacked ones are on the host alone."""

    n_gpu_layers: int
    weights_bytes: int
    tensor_split: tuple[float, ...] = ()
    given_up: tuple[str, ...] = ()


def place(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> Placement | None:
    """As many layers on the GPUs as fit there, if what is left fits on the host; None where that does not."""
    costs = _Costs.of(model, parameters, memory)
    offloaded, split = _most(costs, target)
    if costs.host(len(costs.items) - offloaded) + target.margin_bytes > target.ram_bytes:
        return None
    if not offloaded:
        left = ("n_gpu_layers: 0, since not even the output fits on the GPU",) if target.vram_bytes else ()
        return Placement(0, _without_copy(model, parameters, memory), given_up=left)
    whole = offloaded == len(costs.items)
    shares = tuple(map(float, split)) if len(split) > 1 else ()
    weights = costs.host(len(costs.items) - offloaded) + sum(costs.items[-offloaded:])
    weights -= memory.kv_cache_bytes + memory.compute_bytes + memory.output_bytes
    left = () if whole else (f"n_gpu_layers: {offloaded} of {len(costs.items)} fit on the GPU",)
    return Placement(-1 if whole else offloaded, weights, shares, left)


def host_shortfall_bytes(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> int:
    """What the host lacks when as many layers as fit are on the GPUs; 0 where nothing is."""
    costs = _Costs.of(model, parameters, memory)
    offloaded, _ = _most(costs, target)
    return max(costs.host(len(costs.items) - offloaded) + target.margin_bytes - target.ram_bytes, 0)


@dataclass(frozen=True, slots=True)
class MemoryShortfall:
    """What is missing, on the host and on the GPUs together."""

    host_bytes: int
    gpu_bytes: int


def memory_shortfall(model: Footprint, parameters: Parameters, memory: Memory, target: Target) -> MemoryShortfall:
    """What the layers lack where these parameters put them, by llama.cpp's rule: of the layers on GPUs, counted from
    the first, each goes to the first GPU whose share, added to those of the GPUs before it, is beyond the layer's."""
    costs = _Costs.of(model, parameters, memory)
    count = len(costs.items)
    offloaded = count if parameters.n_gpu_layers < 0 else min(parameters.n_gpu_layers, count)
    if not target.vram_bytes:
        offloaded = 0
    host = costs.host(count - offloaded) + target.margin_bytes - target.ram_bytes
    held = [0] * len(target.vram_bytes)
    ends = list(accumulate((parameters.tensor_split or target.vram_bytes)[: len(held)]))
    for number, item in enumerate(costs.items[count - offloaded :]):
        held[min(bisect_right(ends, number * ends[-1] / offloaded), len(held) - 1)] += item
    gpus = [
        took + costs.compute_bytes + target.gpu_margin_bytes - room
        for took, room in zip(held, target.vram_bytes, strict=True)
        if took
    ]
    return MemoryShortfall(max(host, 0), sum(max(one, 0) for one in gpus))


@dataclass(frozen=True, slots=True)
class _Costs:
    """Bytes of each layer and of the output, on a GPU and on the host, and of what is there once."""

    items: tuple[int, ...]
    on_host: tuple[int, ...]
    beside_bytes: int
    compute_bytes: int

    @classmethod
    def of(cls, model: Footprint, parameters: Parameters, memory: Memory) -> _Costs:
        caches = [model.cache_bytes(layer, parameters) for layer in model.layers]
        sum_of_caches = sum(caches)
        caches = [-(-memory.kv_cache_bytes * one // sum_of_caches) if sum_of_caches else 0 for one in caches]
        weights = [layer.weights_bytes for layer in model.layers]
        items = [weight + cache for weight, cache in zip(weights, caches, strict=True)]
        # what the host takes more than the file says, it takes for layers: repacked ones
        more = max(_without_copy(model, parameters, memory) - model.weights_bytes, 0)
        sum_of_weights = sum(weights) or 1
        on_host = [item - (-more * weight // sum_of_weights) for item, weight in zip(items, weights, strict=True)]
        return cls(
            items=(*items, model.offloaded_output_bytes),
            on_host=(*on_host, model.output_bytes),
            beside_bytes=model.input_bytes + memory.output_bytes + memory.compute_bytes,
            compute_bytes=memory.compute_bytes,
        )

    def host(self, layers: int) -> int:
        """What the host needs when the first `layers` of the items stay there."""
        return self.beside_bytes + sum(self.on_host[:layers])


def _without_copy(model: Footprint, parameters: Parameters, memory: Memory) -> int:
    """The weights, less the copy of a tied embedding that the engine would put on a GPU with these parameters."""
    copied = memory.on_gpu and parameters.n_gpu_layers != 0
    return memory.weights_bytes - (model.offloaded_output_bytes - model.output_bytes if copied else 0)


def _most(costs: _Costs, target: Target) -> tuple[int, tuple[int, ...]]:
    """(how many of the last items fit on the GPUs, how many of them on each)."""
    for count in range(len(costs.items), 0, -1):
        split = _split(costs.items[-count:], costs.compute_bytes + target.gpu_margin_bytes, target.vram_bytes)
        if split is not None:
            return count, split
    return 0, ()


def _split(items: tuple[int, ...], beside_bytes: int, vram_bytes: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many of the items each GPU takes beside `beside_bytes`, in their order and as many as fit on each before the
    next; None where some are left over."""
    counts = []
    at = 0
    for room in vram_bytes:
        left = room - beside_bytes
        start = at
        while at < len(items) and items[at] <= left:
            left -= items[at]
            at += 1
        counts.append(at - start)
    return tuple(counts) if at == len(items) else None
