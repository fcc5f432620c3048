"""Search the models of a source for the best one that fits a machine, reading as few headers as possible.

The quantizations of a repository differ in their weights and in nothing else: one header, scaled by the size of a file,
estimates all of them, and a file that cannot fit by that estimate is not read. On a machine with GPUs, the first
candidate that fits there entirely is chosen, since layers on the processor are slow; only if none does, the first that
fits with some layers in the host's memory.

A file's name may state a wrong quantization. The header of each candidate is read before it is chosen, and
may change its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddock.engine.parameters import Parameters
from paddock.errors import ModelRejected
from paddock.lifecycle.assess.model_header import ModelHeader
from paddock.lifecycle.assess.sound_models import SoundModels
from paddock.model.quantization import GgufSet
from paddock.model.reference import Variant
from paddock.model.units import human_bytes
from paddock.planning.footprint import Footprint
from paddock.planning.placement import Target, host_shortfall_bytes, place
from paddock.planning.plan import DEFAULT_CONTEXT_TOKENS, Plan, PlanRequest, make_plan


@dataclass(frozen=True, slots=True)
class FitCandidate:
    """A variant that could be chosen: its memory with the plan's context, and the reason why it is chosen or not."""

    variant: Variant
    quantization: str | None
    file: str
    size_bytes: int
    total_bytes: int
    fits: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "quantization": self.quantization,
            "file": self.file,
            "size_bytes": self.size_bytes,
            "total_bytes": self.total_bytes,
            "fits": self.fits,
            "reason": self.reason,
        }


class CandidateSearch:
    """A search among the models of one source, whose headers are read once."""

    def __init__(self, models: SoundModels, request: PlanRequest, threads: int) -> None:
        self._models, self._request, self._threads = models, request, threads

    def choose(
        self, candidates: Sequence[GgufSet], target: Target, *, requested: bool = False
    ) -> tuple[ModelHeader, Plan]:
        """The first sound model that fits with enough context and entirely on the GPUs, else the one that fits best,
        else the smallest; with its plan. At least one header must have been read before.

        `requested`: the candidates were requested by name. Raises ModelRejected where none is sound.
        """
        pending = list(candidates)
        best: tuple[tuple[bool, bool], ModelHeader, Plan] | None = None
        while pending:
            model = min(pending, key=self._models.rank)
            is_read = model in self._models.headers
            if not self._may_fit(model, target):
                pending.remove(model)
                continue
            try:
                if not self._models.is_sound(model, requested=requested):
                    pending.remove(model)
                    continue
                if not is_read:
                    continue  # its header may change its rank
                pending.remove(model)
                plan = self._plan(model, target)
            except ModelRejected:
                if best is None:
                    raise
                break
            if plan.fits:
                merit = self._merit(plan, target)
                if best is None or merit > best[0]:
                    best = (merit, self._models.headers[model], plan)
                if all(merit):
                    break
        if best:
            return best[1], best[2]
        for smallest in sorted(candidates, key=lambda model: model.size):
            if self._models.is_sound(smallest, requested=requested):
                return self._models.headers[smallest], self._plan(smallest, target)
        raise self._models.rejection(candidates)

    def describe(
        self, model: GgufSet, chosen: ModelHeader, plan: Plan, target: Target, *, requested_by_name: bool
    ) -> FitCandidate:
        """Memory of a model with the plan's parameters, and why it is chosen or not. Its weights are estimated from
        its file's size; all else is as in the plan of the chosen model."""
        footprint = self._footprint(model)
        is_chosen = model == chosen.model
        memory = plan.memory if is_chosen else replace(plan.memory, weights_bytes=footprint.weights_bytes)
        shortfall = (
            plan.missing_bytes if is_chosen else host_shortfall_bytes(footprint, plan.parameters, memory, target)
        )
        placement = place(footprint, plan.parameters, memory, target)
        if placement and not is_chosen:
            memory = replace(memory, weights_bytes=placement.weights_bytes)
        context = f"with {plan.context_tokens} tokens of context"
        if model.missing:
            reason = f"{len(model.missing)} of {model.declared} shards are missing"
        elif shortfall:
            reason = f"{human_bytes(shortfall)} too large {context}"
        elif is_chosen:
            why = "requested by name" if requested_by_name else "the first that fits, in the order of preference"
            reason = f"chosen: {why}"
        elif placement is not None and target.vram_bytes and placement.n_gpu_layers != -1:
            reason = f"fits {context}, but with {placement.n_gpu_layers} layers on the GPU only"
        else:
            reason = f"fits {context}"
        if model in self._models.headers and self._models.headers[model].misnamed:
            reason += f"; its name says {model.quantization}, and its header {self._models.quantization(model)}"
        return FitCandidate(
            variant=self._models.source.names[model],
            quantization=self._models.quantization(model),
            file=model.first,
            size_bytes=model.size,
            total_bytes=memory.total_bytes,
            fits=not shortfall and not model.missing,
            reason=reason,
        )

    def _footprint(self, model: GgufSet) -> Footprint:
        """The footprint of a model, or that of another one whose header was read, scaled to its size."""
        header = self._models.headers.get(model) or next(iter(self._models.headers.values()))
        return header.footprint.scaled(model.size / header.model.size)

    def _plan(self, model: GgufSet, target: Target) -> Plan:
        header = self._models.headers[model]
        trained_tokens = header.facts.context_length
        requested_tokens, request = self._request.context_tokens, self._request.for_model(trained_tokens)
        plan = make_plan(
            header.predict_memory,
            target,
            request,
            trained_tokens=trained_tokens,
            model=header.footprint,
            threads=self._threads,
            whole_prompts=header.whole_prompts,
        )
        if requested_tokens == request.context_tokens:
            return plan
        reduced = (
            f"context: {request.context_tokens} tokens, which is all that it was trained for, instead of"
            f" {requested_tokens}"
        )
        return replace(plan, given_up=(reduced, *plan.given_up))

    def _enough_tokens(self) -> int:
        """The requested context, by default DEFAULT_CONTEXT_TOKENS: a better quantization with less context is of less
        use than a smaller one with this."""
        trained_tokens = next(iter(self._models.headers.values())).facts.context_length
        requested_tokens = self._request.for_model(trained_tokens).context_tokens
        return requested_tokens or min(trained_tokens or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)

    def _may_fit(self, model: GgufSet, target: Target) -> bool:
        """Whether the model would fit without a compute buffer: if not, its header is not worth reading."""
        request, footprint = self._request, self._footprint(model)
        parameters = Parameters(
            n_ctx=self._enough_tokens() * request.parallel,
            n_threads=1,
            n_seq_max=request.parallel,
            type_k=request.kv_type,
            type_v=request.kv_type,
        )
        lower_bound = replace(footprint.estimate(parameters), compute_bytes=0)
        return place(footprint, parameters, lower_bound, target) is not None

    def _merit(self, plan: Plan, target: Target) -> tuple[bool, bool]:
        """(has enough context, is entirely on the GPUs where there are any)."""
        on_gpus = plan.parameters.n_gpu_layers == -1 or not target.vram_bytes
        return plan.context_tokens >= self._enough_tokens(), on_gpus
