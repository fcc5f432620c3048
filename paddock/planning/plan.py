"""The engine's parameters for a model on a machine, and whether it fits there.

Pure but for one question, which the caller answers: what does the engine take with these parameters (`Ask`)? A plan
that says that a model fits was answered for its very parameters.

Without a context that is asked for, the longest is sought: the trained one where that fits, else the longest multiple
of 256 that does. Memory grows nearly in proportion to the context, so two answers tell where to look, and a few more
make sure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from paddock.engine.oracle import MARGIN_BYTES, Memory
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.model.units import human_bytes

LEAST_CONTEXT = 512
_STEP = 256
_TRIES = 6

Ask = Callable[[Parameters], Memory]


@dataclass(frozen=True, slots=True)
class Target:
    """The memory of a machine in bytes, what other programs use of it left out. No `vram_bytes`: no GPU."""

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + sum(self.vram_bytes)

    def holds(self, needed_bytes: int) -> bool:
        return needed_bytes + MARGIN_BYTES <= self.total_bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a model: `context_tokens` for each of `parallel` requests at once, or the longest that fits."""

    context_tokens: int | None
    parallel: int = 1
    kv_type: str = "f16"


@dataclass(frozen=True, slots=True)
class Plan:
    """`memory` is what the engine takes with `parameters`; `given_up` says what was asked for and is not had."""

    fits: bool
    parameters: Parameters
    memory: Memory
    given_up: tuple[str, ...]


def make_plan(ask: Ask, target: Target, wish: Wish, *, trained: int | None, layers: int | None, threads: int) -> Plan:
    """The plan for a model that was trained for `trained` tokens of context and has `layers` layers.

    Raises ConflictingConfiguration when more context is asked for than it was trained for, and what `ask` raises.
    """
    if wish.context_tokens and trained and wish.context_tokens > trained:
        raise ConflictingConfiguration(
            f"the model was trained for {trained} tokens of context, and {wish.context_tokens} are asked for",
            cure=f"ask for {trained} at most",
        )
    wanted = wish.context_tokens or trained or 4096
    start = Parameters(
        n_ctx=wanted * wish.parallel,
        n_threads=threads,
        n_seq_max=wish.parallel,
        type_k=wish.kv_type,
        type_v=wish.kv_type,
    )
    memory = ask(start)
    if target.holds(memory.total_bytes):
        return Plan(True, _placed(start, memory, target, layers), memory, ())
    if wish.context_tokens is None and wanted > LEAST_CONTEXT:
        found = _longest(ask, target, start, memory, parallel=wish.parallel)
        if found:
            parameters, memory = found
            given_up = f"context: {parameters.n_ctx // wish.parallel} tokens of the {wanted} that it was trained for"
            return Plan(True, _placed(parameters, memory, target, layers), memory, (given_up,))
    missing = memory.total_bytes + MARGIN_BYTES - target.total_bytes
    return Plan(False, start, memory, (f"{human_bytes(missing)} are missing",))


def longest_context(ask: Ask, target: Target, plan: Plan) -> int | None:
    """For a plan that does not fit: the tokens of context for each request that would; None where no context does."""
    found = _longest(ask, target, plan.parameters, plan.memory, parallel=plan.parameters.n_seq_max)
    return found[0].n_ctx // plan.parameters.n_seq_max if found else None


def _longest(
    ask: Ask, target: Target, large: Parameters, too_much: Memory, *, parallel: int
) -> tuple[Parameters, Memory] | None:
    """The longest context below that of `large` which fits, and its memory."""
    low = replace(large, n_ctx=min(LEAST_CONTEXT * parallel, large.n_ctx))
    best = ask(low)
    if low.n_ctx == large.n_ctx or not target.holds(best.total_bytes):
        return None
    high, high_memory = large, too_much
    for _ in range(_TRIES):
        slope = (high_memory.total_bytes - best.total_bytes) / (high.n_ctx - low.n_ctx)
        room = target.total_bytes - MARGIN_BYTES - best.total_bytes
        guess = low.n_ctx + (int(room / slope) if slope > 0 else 0)
        step = _STEP * parallel
        tokens = min(max(guess // step * step, low.n_ctx + step), high.n_ctx - 1)
        if tokens <= low.n_ctx or high.n_ctx - low.n_ctx <= step:
            break
        tried = replace(large, n_ctx=tokens)
        memory = ask(tried)
        if target.holds(memory.total_bytes):
            low, best = tried, memory
        else:
            high, high_memory = tried, memory
    return low, best


def _placed(parameters: Parameters, memory: Memory, target: Target, layers: int | None) -> Parameters:
    """All layers on the GPUs where all of it fits there, as many as fit otherwise, and none without one."""
    vram = sum(target.vram_bytes)
    if not vram:
        return replace(parameters, n_gpu_layers=0)
    if memory.total_bytes + MARGIN_BYTES <= vram or not layers:
        return replace(parameters, n_gpu_layers=-1)
    each = (memory.weights_bytes + memory.kv_cache_bytes) / layers
    room = vram - MARGIN_BYTES - memory.compute_bytes - memory.output_bytes
    return replace(parameters, n_gpu_layers=max(0, min(layers, int(room / each))))
