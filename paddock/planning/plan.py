"""Plan the engine's parameters for a model on a machine, and whether it fits.

The functions are pure except for `PredictMemory`, a callback that predicts the memory for given parameters. If a plan
fits, its memory was predicted for exactly its parameters, and `placement` assigned the layers to the devices.

The requested parameters are tried first. If they do not fit, speed is given up before context: first the memory mapping
of the file, because repacked weights are then in memory twice; second the size of a prompt's batch. Without a requested
context the longest that fits is searched: the trained one, or else the longest multiple of 256. The search predicts
eight contexts in one call, because one load of the header serves them all.
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
_MAX_TOKENS = 2**27
_SMALL_UBATCH = 128
_CONTEXT_STEP = 256
_CONTEXTS_PER_CALL = 8

PredictMemory = Callable[[Sequence[Parameters]], Sequence[Memory]]
"""Predicts the memory for each of several parameters, in order."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The requested context and KV cache.

    `context_tokens` is for each of `parallel` simultaneous requests; None requests the longest context that fits.
    `kv_type` is the ggml type of the KV cache. Raises ConflictingConfiguration for more tokens in all than llama.cpp
    supports, 2**27.
    """

    context_tokens: int | None
    parallel: int = 1
    kv_type: str = "f16"
    at_most_trained: bool = False
    """Whether `context_tokens` is reduced to the trained context of a model that was trained for less."""
    with_images: bool = False
    """Whether requests hold images, which some models compute in one batch: the size of a batch is not given up."""

    def __post_init__(self) -> None:
        tokens = (self.context_tokens or 0) * self.parallel
        if tokens > _MAX_TOKENS:
            raise ConflictingConfiguration(
                f"{self.parallel} simultaneous requests with {self.context_tokens} tokens of context each are"
                f" {tokens} tokens, and llama.cpp supports at most {_MAX_TOKENS}",
                cure="reduce the number of requests or the context",
            )

    def for_model(self, trained_tokens: int | None) -> PlanRequest:
        """The request for a model with a trained context of `trained_tokens`, None if its header has none."""
        if self.at_most_trained and self.context_tokens and trained_tokens:
            return replace(self, context_tokens=min(self.context_tokens, trained_tokens))
        return self


@dataclass(frozen=True, slots=True)
class Plan:
    """The planned parameters and their memory on all devices together.

    `given_up` are sentences, one for each requested or usual property that the plan gives up, or the reason why it does
    not fit. `missing_bytes` is how much host memory is missing then, else 0.
    """

    fits: bool
    parameters: Parameters
    memory: Memory
    given_up: tuple[str, ...]
    missing_bytes: int = 0

    @property
    def context_tokens(self) -> int:
        """The context of each request, in tokens."""
        return self.parameters.n_ctx // self.parameters.n_seq_max


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Parameters to try, and sentences on what they give up."""

    parameters: Parameters
    given_up: tuple[str, ...]


def make_plan(
    predict: PredictMemory,
    target: Target,
    request: PlanRequest,
    *,
    trained_tokens: int | None,
    model: Footprint,
    threads: int,
    whole_prompts: bool = False,
) -> Plan:
    """Plan the parameters of a model with a trained context of `trained_tokens` (None if unknown) on `target`.

    `whole_prompts`: the model computes a prompt in one batch only, which then has the size of the context.

    Raises ConflictingConfiguration if the requested context exceeds the trained one or what llama.cpp supports,
    BadSetting for an unknown type of the KV cache, and whatever `predict` raises.
    """
    tokens = _initial_context(request, trained_tokens)
    requested = _initial_parameters(request, tokens, threads, whole_prompts=whole_prompts)
    attempts = _attempts(requested, smaller_batch=not request.with_images)
    contexts = dict.fromkeys((tokens, min(MIN_CONTEXT_TOKENS, tokens)) if request.context_tokens is None else (tokens,))
    batch = [_with_context(one.parameters, each * request.parallel) for each in contexts for one in attempts]
    predicted = dict(zip(batch, predict(batch), strict=True))
    for attempt in attempts:
        placement = place(model, attempt.parameters, predicted[attempt.parameters], target)
        if placement:
            return _plan(attempt, predicted[attempt.parameters], placement)
    if request.context_tokens is None:
        for attempt in attempts:
            longest = _longest(predict, target, model, attempt.parameters, predicted)
            if longest:
                parameters, memory, placement = longest
                which = "that it was trained for" if trained_tokens else "that are the default"
                shorter = f"context: {parameters.n_ctx // request.parallel} tokens of the {tokens} {which}"
                return _plan(_Attempt(parameters, (*attempt.given_up, shorter)), memory, placement)
    parameters = attempts[0].parameters
    missing_bytes = host_shortfall_bytes(model, parameters, predicted[parameters], target)
    note = f"{human_bytes(missing_bytes)} are missing"
    return Plan(False, parameters, predicted[parameters], (note,), missing_bytes)


def longest_context(predict: PredictMemory, target: Target, plan: Plan, model: Footprint) -> int | None:
    """The longest context, in tokens for each request, with which a plan that does not fit would fit; None if none."""
    large = _attempts(plan.parameters)[-1].parameters
    small = _with_context(large, min(MIN_CONTEXT_TOKENS * large.n_seq_max, large.n_ctx))
    predicted = dict(zip((large, small), predict((large, small)), strict=True))
    longest = _longest(predict, target, model, large, predicted)
    return longest[0].n_ctx // large.n_seq_max if longest else None


def _initial_context(request: PlanRequest, trained_tokens: int | None) -> int:
    if request.context_tokens and trained_tokens and request.context_tokens > trained_tokens:
        raise ConflictingConfiguration(
            f"the model was trained for {trained_tokens} tokens of context, and {request.context_tokens} are requested",
            cure=f"request at most {trained_tokens}",
        )
    return request.context_tokens or min(trained_tokens or DEFAULT_CONTEXT_TOKENS, _MAX_TOKENS // request.parallel)


def _initial_parameters(request: PlanRequest, tokens: int, threads: int, *, whole_prompts: bool) -> Parameters:
    quantized = request.kv_type not in {"f16", "f32", "bf16"}
    parameters = Parameters(
        n_ctx=tokens * request.parallel,
        n_threads=threads,
        n_threads_batch=threads,
        n_seq_max=request.parallel,
        flash_attn="on" if quantized else "auto",  # llama.cpp quantizes the V cache only with flash attention
        type_k=request.kv_type,
        type_v=request.kv_type,
    )
    return replace(parameters, n_batch=tokens, n_ubatch=tokens) if whole_prompts else parameters


def _computes_whole_prompts(parameters: Parameters) -> bool:
    return parameters.n_batch == parameters.n_ubatch == parameters.n_ctx // parameters.n_seq_max


def _with_context(parameters: Parameters, n_ctx: int) -> Parameters:
    """The parameters with another context, and a batch of that size where a batch holds a whole prompt."""
    if not _computes_whole_prompts(parameters):
        return replace(parameters, n_ctx=n_ctx)
    tokens = n_ctx // parameters.n_seq_max
    return replace(parameters, n_ctx=n_ctx, n_batch=tokens, n_ubatch=tokens)


def _attempts(requested: Parameters, *, smaller_batch: bool = True) -> tuple[_Attempt, ...]:
    """Parameters to try in order, from the requested ones to those that take the least memory."""
    read = replace(requested, use_mmap=False)
    small = replace(read, n_ubatch=_SMALL_UBATCH)
    no_mapping = "use_mmap: the file is read into memory, so that repacked weights take memory once and not twice"
    if not smaller_batch or _computes_whole_prompts(requested):
        return (_Attempt(requested, ()), _Attempt(read, (no_mapping,)))
    slower = f"n_ubatch: {_SMALL_UBATCH} rather than {requested.n_ubatch}, which makes long prompts slower"
    return (_Attempt(requested, ()), _Attempt(read, (no_mapping,)), _Attempt(small, (no_mapping, slower)))


def _plan(attempt: _Attempt, memory: Memory, placement: Placement) -> Plan:
    parameters = replace(attempt.parameters, n_gpu_layers=placement.n_gpu_layers, tensor_split=placement.tensor_split)
    memory = replace(memory, weights_bytes=placement.weights_bytes)
    return Plan(True, parameters, memory, (*attempt.given_up, *placement.given_up))


def _longest(
    predict: PredictMemory, target: Target, model: Footprint, large: Parameters, predicted: dict[Parameters, Memory]
) -> tuple[Parameters, Memory, Placement] | None:
    """Search the longest context below that of `large` that fits. `predicted` has the memory of `large` and of the same
    parameters with the smallest context."""
    step = _CONTEXT_STEP * large.n_seq_max
    best = _with_context(large, min(MIN_CONTEXT_TOKENS * large.n_seq_max, large.n_ctx))
    memory = predicted[best]
    placement = place(model, best, memory, target)
    if best.n_ctx == large.n_ctx or not placement:
        return None
    too_large = large.n_ctx
    while too_large - best.n_ctx > step:
        stride = -(-(too_large - best.n_ctx) // ((_CONTEXTS_PER_CALL + 1) * step)) * step
        batch = [_with_context(large, tokens) for tokens in range(best.n_ctx + stride, too_large, stride)]
        for tried, tried_memory in zip(batch, predict(batch), strict=True):
            tried_placement = place(model, tried, tried_memory, target)
            if not tried_placement:
                too_large = tried.n_ctx
                break
            best, memory, placement = tried, tried_memory, tried_placement
    return best, memory, placement
