"""The engine's parameters for a model on a machine, and whether it fits there.

Pure but for one question, which the caller answers: what does the engine take with these parameters (`Ask`)? A plan
that says that a model fits was answered for its very parameters, and `placement` shared its layers out.

What is asked for is tried first. Where it does not fit, speed is given up before the context: first the mapping of the
file, whose repacked weights are in memory twice; then the size of a prompt's batch. Without a context that is asked
for, the longest is sought: the trained one where that fits, else the longest multiple of 256 that does. Eight contexts
are asked for at a time, since one load of the header answers for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration
from paddock.model.units import human_bytes
from paddock.planning.footprint import Footprint
from paddock.planning.placement import Placement, Target, host_shortfall_bytes, place

MIN_CONTEXT_TOKENS = 512
DEFAULT_CONTEXT_TOKENS = 4096
_MOST_TOKENS = 2**27
_SMALL_BATCH = 128
_STEP = 256
_POINTS = 8

PredictMemory = Callable[[Sequence[Parameters]], Sequence[Memory]]


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked of a model: `context_tokens` for each of `parallel` requests at once, or the longest that fits.
    Raises ConflictingConfiguration for more than the engine counts."""

    context_tokens: int | None
    parallel: int = 1
    kv_type: str = "f16"
    at_most_trained: bool = False
    """Whether a model that was trained for less is taken with that."""

    def __post_init__(self) -> None:
        tokens = (self.context_tokens or 0) * self.parallel
        if tokens > _MOST_TOKENS:
            raise ConflictingConfiguration(
                f"{self.parallel} requests at once with {self.context_tokens} tokens of context each are"
                f" {tokens} tokens, and the engine counts up to {_MOST_TOKENS}",
                cure="ask for fewer requests or a shorter context",
            )

    def for_model(self, trained: int | None) -> PlanRequest:
        """The wish for a model that was trained for so many tokens."""
        if self.at_most_trained and self.context_tokens and trained:
            return replace(self, context_tokens=min(self.context_tokens, trained))
        return self


@dataclass(frozen=True, slots=True)
class Plan:
    """`memory` is what the engine takes with `parameters`, on all devices together; `given_up` says what was asked for
    and is not had, and `missing_bytes` what is lacking where it does not fit."""

    fits: bool
    parameters: Parameters
    memory: Memory
    given_up: tuple[str, ...]
    host_shortfall_bytes: int = 0

    @property
    def context_tokens(self) -> int:
        """For each request."""
        return self.parameters.n_ctx // self.parameters.n_seq_max


@dataclass(frozen=True, slots=True)
class _Way:
    """Parameters to try, and what they give up."""

    parameters: Parameters
    given_up: tuple[str, ...]


def make_plan(
    ask: PredictMemory, target: Target, wish: PlanRequest, *, trained: int | None, model: Footprint, threads: int
) -> Plan:
    """The plan for a model that was trained for `trained` tokens of context.

    Raises ConflictingConfiguration when more context is asked for than it was trained for or than the engine counts,
    BadSetting for a type of the KV cache that there is not, and what `ask` raises.
    """
    wanted = _wanted(wish, trained)
    ways = _ways(_start(wish, wanted, threads))
    lengths = dict.fromkeys((wanted, min(MIN_CONTEXT_TOKENS, wanted)) if wish.context_tokens is None else (wanted,))
    asked = [replace(way.parameters, n_ctx=tokens * wish.parallel) for tokens in lengths for way in ways]
    said = dict(zip(asked, ask(asked), strict=True))
    first = said[ways[0].parameters]
    for way in ways:
        placed = place(model, way.parameters, said[way.parameters], target)
        if placed:
            return _plan(way, said[way.parameters], placed)
    if wish.context_tokens is None:
        for way in ways:
            found = _longest(ask, target, model, way.parameters, said)
            if found:
                parameters, memory, placed = found
                tokens = parameters.n_ctx // wish.parallel
                whole = "that it was trained for" if trained else "that are usual"
                shorter = f"context: {tokens} tokens of the {wanted} {whole}"
                return _plan(_Way(parameters, (*way.given_up, shorter)), memory, placed)
    lacking = host_shortfall_bytes(model, ways[0].parameters, first, target)
    return Plan(False, ways[0].parameters, first, (f"{human_bytes(lacking)} are missing",), lacking)


def longest_context(ask: PredictMemory, target: Target, plan: Plan, model: Footprint) -> int | None:
    """For a plan that does not fit: the tokens of context for each request that would; None where no context does."""
    large = _ways(plan.parameters)[-1].parameters
    least = replace(large, n_ctx=min(MIN_CONTEXT_TOKENS * large.n_seq_max, large.n_ctx))
    said = dict(zip((large, least), ask((large, least)), strict=True))
    found = _longest(ask, target, model, large, said)
    return found[0].n_ctx // large.n_seq_max if found else None


def _wanted(wish: PlanRequest, trained: int | None) -> int:
    if wish.context_tokens and trained and wish.context_tokens > trained:
        raise ConflictingConfiguration(
            f"the model was trained for {trained} tokens of context, and {wish.context_tokens} are asked for",
            cure=f"ask for {trained} at most",
        )
    return wish.context_tokens or min(trained or DEFAULT_CONTEXT_TOKENS, _MOST_TOKENS // wish.parallel)


def _start(wish: PlanRequest, tokens: int, threads: int) -> Parameters:
    quantized = wish.kv_type not in {"f16", "f32", "bf16"}
    return Parameters(
        n_ctx=tokens * wish.parallel,
        n_threads=threads,
        n_threads_batch=threads,
        n_seq_max=wish.parallel,
        flash_attn="on" if quantized else "auto",  # the engine quantizes values only with it
        type_k=wish.kv_type,
        type_v=wish.kv_type,
    )


def _ways(start: Parameters) -> tuple[_Way, ...]:
    """From what is asked for to what takes the least, each with all that it gives up."""
    read = replace(start, use_mmap=False)
    small = replace(read, n_ubatch=_SMALL_BATCH)
    no_mapping = "use_mmap: the file is read into memory, where repacked weights are once and not twice"
    slower = f"n_ubatch: {_SMALL_BATCH} rather than {start.n_ubatch}, which makes long prompts slower"
    return (_Way(start, ()), _Way(read, (no_mapping,)), _Way(small, (no_mapping, slower)))


def _plan(way: _Way, memory: Memory, placed: Placement) -> Plan:
    parameters = replace(way.parameters, n_gpu_layers=placed.n_gpu_layers, tensor_split=placed.tensor_split)
    memory = replace(memory, weights_bytes=placed.weights_bytes)
    return Plan(True, parameters, memory, (*way.given_up, *placed.given_up))


def _longest(
    ask: PredictMemory, target: Target, model: Footprint, large: Parameters, said: dict[Parameters, Memory]
) -> tuple[Parameters, Memory, Placement] | None:
    """The longest context below that of `large` which fits. `said` holds the answers for `large` and for the least."""
    step = _STEP * large.n_seq_max
    low = replace(large, n_ctx=min(MIN_CONTEXT_TOKENS * large.n_seq_max, large.n_ctx))
    best = said[low]
    placed = place(model, low, best, target)
    if low.n_ctx == large.n_ctx or not placed:
        return None
    too_many = large.n_ctx
    while too_many - low.n_ctx > step:
        stride = -(-(too_many - low.n_ctx) // ((_POINTS + 1) * step)) * step
        between = [replace(large, n_ctx=tokens) for tokens in range(low.n_ctx + stride, too_many, stride)]
        for tried, memory in zip(between, ask(between), strict=True):
            fitting = place(model, tried, memory, target)
            if not fitting:
                too_many = tried.n_ctx
                break
            low, best, placed = tried, memory, fitting
    return low, best, placed
