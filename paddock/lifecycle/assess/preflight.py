"""May a model run on a machine, and how: from its header alone, before a weight is fetched.

The header is audited, and the installed engine itself says what it takes (`engine.oracle`). Other quantizations of the
repository differ in their weights and in nothing else, so one answer tells for all which of them fit. Of a machine with
GPUs, the first that fits there whole is chosen, since a part on the processor is slow; only where none does, the first
that fits with the host's help.

A name may lie about its quantization. The header of what is chosen is read, and what it says counts: another one may
be better then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit, FileNotInRevision, MissingShard, ModelRejected, NoGguf
from paddock.lifecycle.assess.memory_observations import margin_for
from paddock.lifecycle.assess.model_source import (
    ModelHeader,
    ModelSource,
    model_source_in,
    model_source_of,
    read_model_header,
)
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
from paddock.model.artifact import Listing
from paddock.model.hardware import Machine, this_machine
from paddock.model.names import printable
from paddock.model.quantization import GgufSet, is_projector, rank_key
from paddock.model.reference import Variant
from paddock.model.units import human_bytes
from paddock.planning.file_selection import AUTO, BEST, FileSelection, select_files
from paddock.planning.fitting import machine_target
from paddock.planning.footprint import Footprint
from paddock.planning.placement import Target, host_shortfall_bytes, place
from paddock.planning.plan import (
    DEFAULT_CONTEXT_TOKENS,
    MIN_CONTEXT_TOKENS,
    Plan,
    PlanRequest,
    longest_context,
    make_plan,
)
from paddock.validation.compatibility import EngineRequirements


@dataclass(frozen=True, slots=True)
class FitCandidate:
    """A variant that could be chosen: its memory with the plan's context, and why it is chosen or not."""

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


@dataclass(frozen=True, slots=True)
class Preflight:
    """The plan for the chosen variant, what it needs of an engine, and what the others would take. `advice` is what to
    do where nothing fits."""

    name: str
    variant: Variant
    quantization: str | None
    file: str
    plan: Plan
    needs: EngineRequirements
    candidates: tuple[FitCandidate, ...]
    advice: str
    bytes_read: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.name,
            "fits": self.plan.fits,
            "variant": self.variant,
            "quantization": self.quantization,
            "file": self.file,
            "memory": self.plan.memory.to_json(),
            "parameters": self.plan.parameters.to_json(),
            "given_up": list(self.plan.given_up),
            "needs": self.needs.to_json(),
            "candidates": [one.to_json() for one in self.candidates],
            "advice": self.advice,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }

    @property
    def line(self) -> str:
        """The outcome in a line."""
        verdict = "fits" if self.plan.fits else "does not fit"
        total = human_bytes(self.plan.memory.total_bytes)
        return f"{self.variant} of {self.name} {verdict}: {total} with {self.plan.context_tokens} tokens of context"

    def require_fit(self) -> None:
        """Raise DoesNotFit that says what each quantization would take, unless it fits."""
        if self.plan.fits:
            return
        tokens = self.plan.context_tokens
        sizes = ", ".join(f"{one.variant} takes {human_bytes(one.total_bytes)}" for one in self.candidates[:8])
        raise DoesNotFit(
            f"{self.name} does not fit with {tokens} tokens of context ({sizes}); "
            f"{human_bytes(self.plan.missing_bytes)} are missing",
            cure=self.advice,
        )


def preflight(
    clients: Clients,
    source: str,
    wish: PlanRequest,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    machine: Machine | None = None,
) -> Preflight:
    """Plan SOURCE (as `inspect` takes it) for `target`, by default what `machine` has free. That is this one, and given
    only where it is known already.

    Raises ModelRejected for a header that the audit rejects, ConflictingConfiguration, FileNotInRevision, NoGguf, and
    the errors of the Hub, the transfer and the engine.
    """
    began = time.perf_counter()
    offer = model_source_of(clients, source)
    found = _preflight(clients, offer, wish, (quantization, target), machine or this_machine())
    return replace(found, seconds=time.perf_counter() - began)


def preflight_of(
    clients: Clients,
    listing: Listing,
    wish: PlanRequest,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    files: Sequence[str] = (),
) -> Preflight:
    """As `preflight`, of a revision that is resolved already; by default for all the memory that this machine has.

    `files` names the model's files instead of a quantization.
    """
    began = time.perf_counter()
    offer = model_source_in(clients, listing, files=files)
    found = _preflight(clients, offer, wish, (quantization, target), idle_machine())
    return replace(found, seconds=time.perf_counter() - began)


def idle_machine() -> Machine:
    """This machine as if nothing else ran on it: what a model may be kept for, whatever is running now."""
    machine = this_machine()
    gpus = tuple(replace(gpu, vram_available_bytes=gpu.vram_bytes) for gpu in machine.gpus)
    return replace(machine, ram_available_bytes=machine.ram_bytes, gpus=gpus)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to fetch, and whether the model fits (there is no preflight of a projector alone). `note` says why the
    variant is another than the model's default, where it had to be."""

    choice: FileSelection
    preflight: Preflight | None
    note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations from the request: another variant than the default, a shorter context, slower settings."""
        plan = self.preflight.plan if self.preflight else None
        return (*((self.note,) if self.note else ()), *(plan.given_up if plan and plan.fits else ()))

    def require_fit(self) -> None:
        """Raise DoesNotFit as `Preflight.require_fit`."""
        if self.preflight:
            self.preflight.require_fit()


@step(
    Kind.HUB,
    "preflight",
    line=lambda chosen: chosen.preflight.line if chosen.preflight else "a projector alone is not planned",
    warnings=lambda chosen: chosen.notes,
)
def choose_fitting(
    clients: Clients,
    listing: Listing,
    wish: PlanRequest,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
) -> Chosen:
    """Choose the files of a revision to fetch, and say whether the model fits `target`, by default this machine.

    With `auto`, the model's default variant is kept while the revision has it and it fits. Whether what is chosen may
    be fetched is decided by `Chosen.require_fit`. Raises as `choose` and `preflight_of`."""

    def chosen(quantization: str, note: str = "") -> Chosen:
        choice = select_files(listing, quantization=quantization, files=files, projector=projector)
        if is_projector(choice.model_files[0]):
            return Chosen(choice, None)
        found = preflight_of(
            clients,
            listing,
            wish,
            target=target,
            quantization=quantization,
            files=choice.model_files if files else (),
        )
        if not files and found.plan.fits and found.file != choice.model_files[0]:
            choice = select_files(listing, quantization=quantization, projector=projector, prefer=found.file)
        return Chosen(choice, found, note)

    kept = clients.volume.promoted(listing.model).default if quantization == AUTO and not files else None
    if kept is None:
        return chosen(quantization)
    try:
        again = chosen(kept)
    except (FileNotInRevision, MissingShard) as error:
        return chosen(BEST, f"the default variant {kept} is not taken again: {error.message}")
    if again.preflight is None or again.preflight.plan.fits:
        return again
    anew = chosen(BEST, f"the default variant {kept} is not taken again: {again.preflight.line}")
    return anew if anew.preflight is not None and anew.preflight.plan.fits else again


class _Search:
    """The headers that were read so far, and the plans that were made of them."""

    def __init__(self, offer: ModelSource, wish: PlanRequest, threads: int) -> None:
        self._offer, self._wish, self._threads = offer, wish, threads
        self.seen: dict[GgufSet, ModelHeader] = {}

    def see(self, one: GgufSet) -> ModelHeader:
        if one not in self.seen:
            self.seen[one] = read_model_header(self._offer, one)
        return self.seen[one]

    def choose(self, asked: Sequence[GgufSet], target: Target) -> tuple[ModelHeader, Plan]:
        """The first that fits well, else the first that fits best, else the smallest, with its plan. Behind one that
        fits, one that is rejected ends the search, and is no reason to fail."""
        pending = list(asked)
        best: tuple[tuple[bool, bool], ModelHeader, Plan] | None = None
        while pending:
            one = min(pending, key=lambda one: rank_key(self.quantization(one), one))
            if not self._may_fit(one, target):
                pending.remove(one)
                continue
            try:
                if one not in self.seen:
                    self.see(one)
                    continue  # its header may give it another rank
                pending.remove(one)
                plan = self._plan(one, target)
            except ModelRejected:
                if best is None:
                    raise
                break
            if plan.fits:
                merit = self._merit(plan, target)
                if best is None or merit > best[0]:
                    best = (merit, self.seen[one], plan)
                if all(merit):
                    break
        if best:
            return best[1], best[2]
        smallest = min(asked, key=lambda one: one.size)
        return self.see(smallest), self._plan(smallest, target)

    def quantization(self, one: GgufSet) -> str | None:
        return self.seen[one].quantization if one in self.seen else one.quantization

    def like(self, one: GgufSet) -> Footprint:
        """The footprint of a model, or that of one that was seen, scaled to its size."""
        known = self.seen.get(one) or next(iter(self.seen.values()))
        return known.footprint.scaled(one.size / known.model.size)

    def _plan(self, one: GgufSet, target: Target) -> Plan:
        opened = self.seen[one]
        trained = opened.facts.context_length
        asked, wish = self._wish.context_tokens, self._wish.for_model(trained)
        plan = make_plan(opened.ask, target, wish, trained=trained, model=opened.footprint, threads=self._threads)
        if asked == wish.context_tokens:
            return plan
        cut = f"context: {wish.context_tokens} tokens, which is all that it was trained for, instead of {asked}"
        return replace(plan, given_up=(cut, *plan.given_up))

    def _enough_tokens(self) -> int:
        trained = next(iter(self.seen.values())).facts.context_length
        asked = self._wish.for_model(trained).context_tokens
        # Without one: a better quantization with less is of less use than a smaller one with this.
        return asked or min(trained or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)

    def _may_fit(self, one: GgufSet, target: Target) -> bool:
        """Whether it could, if computing took nothing: else its header is not worth reading."""
        wish, model = self._wish, self.like(one)
        asked = Parameters(
            n_ctx=self._enough_tokens() * wish.parallel,
            n_threads=1,
            n_seq_max=wish.parallel,
            type_k=wish.kv_type,
            type_v=wish.kv_type,
        )
        return place(model, asked, replace(model.estimate(asked), compute_bytes=0), target) is not None

    def _merit(self, plan: Plan, target: Target) -> tuple[bool, bool]:
        """(with enough context, whole on the GPUs where there are any)."""
        whole = plan.parameters.n_gpu_layers == -1 or not target.vram_bytes
        return plan.context_tokens >= self._enough_tokens(), whole


def _preflight(
    clients: Clients, offer: ModelSource, wish: PlanRequest, asked_for: tuple[str, Target | None], machine: Machine
) -> Preflight:
    """`asked_for` is the quantization, and the target where that is not `machine`."""
    quantization, target = asked_for
    asked = [one for one in offer.named(quantization) if not one.missing]
    if not asked:
        raise NoGguf(f"{offer.name} has no model of which every shard is there", cure="ask its owner")
    search = _Search(offer, wish, machine.cores)
    first = search.see(asked[0])
    if target is None:
        on_gpu = _on_gpu(machine, first)
        margin = margin_for(clients, first.needs.architecture, first.needs.engine, machine, on_cpu=not on_gpu)
        target = machine_target(machine, on_gpu=on_gpu, margin_bytes=margin)
    chosen, plan = search.choose(asked, target)
    return Preflight(
        name=offer.name,
        variant=offer.names[chosen.model],
        quantization=chosen.quantization,
        file=chosen.model.first,
        plan=plan,
        needs=chosen.needs,
        candidates=tuple(
            _verdict(
                one, chosen, search, plan, target, variant=offer.names[one], by_name=quantization not in {AUTO, BEST}
            )
            for one in offer.sets
        ),
        advice="" if plan.fits else _advice(chosen, plan, target),
        bytes_read=sum(one.bytes_read for one in search.seen.values()),
        seconds=0.0,
    )


def _on_gpu(machine: Machine, model: ModelHeader) -> bool:
    """Whether this machine has GPUs that the engine uses: a build for the processor alone does not."""
    if not machine.gpus:
        return False
    (said,) = model.ask([Parameters(n_ctx=MIN_CONTEXT_TOKENS, n_threads=1)])
    return said.on_gpu


def _verdict(
    one: GgufSet, chosen: ModelHeader, search: _Search, plan: Plan, target: Target, *, variant: Variant, by_name: bool
) -> FitCandidate:
    """What one would take with the plan's parameters: its weights are its file's, and the rest is the same for all."""
    model = search.like(one)
    is_chosen = one == chosen.model
    memory = plan.memory if is_chosen else replace(plan.memory, weights_bytes=model.weights_bytes)
    lacking = plan.missing_bytes if is_chosen else host_shortfall_bytes(model, plan.parameters, memory, target)
    placed = place(model, plan.parameters, memory, target)
    if placed and not is_chosen:
        memory = replace(memory, weights_bytes=placed.weights_bytes)
    tokens = plan.context_tokens
    if one.missing:
        reason = f"{len(one.missing)} of {one.declared} shards are missing"
    elif lacking:
        reason = f"{human_bytes(lacking)} too large with {tokens} tokens of context"
    elif is_chosen:
        reason = f"chosen: {'requested by name' if by_name else 'the first that fits, in the order of preference'}"
    elif placed is not None and target.vram_bytes and placed.n_gpu_layers != -1:
        reason = f"fits with {tokens} tokens of context, but with {placed.n_gpu_layers} layers on the GPU only"
    else:
        reason = f"fits with {tokens} tokens of context"
    if one in search.seen and search.seen[one].misnamed:
        reason += f"; its name says {one.quantization}, and its header {search.quantization(one)}"
    fits = not lacking and not one.missing
    return FitCandidate(variant, search.quantization(one), one.first, one.size, memory.total_bytes, fits, reason)


def _advice(chosen: ModelHeader, plan: Plan, target: Target) -> str:
    tokens = longest_context(chosen.ask, target, plan, chosen.footprint)
    what = chosen.quantization or printable(chosen.model.first)
    if tokens:
        return f"with {tokens} tokens of context {what} would fit"
    room = "GPU memory and " if target.vram_bytes else ""
    return f"a machine with {human_bytes(plan.missing_bytes)} more {room}memory, or a smaller model, is needed"
