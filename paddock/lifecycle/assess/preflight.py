"""Preflight: check from the headers alone whether a model fits a machine, before a weight is fetched.

The header is audited, and the installed engine itself predicts the memory (`engine.oracle`). Which of the variants is
chosen is decided by `candidate_search`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from paddock.engine.oracle import MARGIN_BYTES
from paddock.engine.parameters import Parameters
from paddock.errors import BadSetting, DoesNotFit, FileNotInRevision, MissingShard, ModelRejected
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.candidate_search import CandidateSearch, FitCandidate
from paddock.lifecycle.assess.memory_observations import margin_for
from paddock.lifecycle.assess.model_header import ModelHeader
from paddock.lifecycle.assess.model_source import (
    ModelSource,
    passed_over_files,
    source_from_argument,
    source_from_listing,
)
from paddock.lifecycle.assess.sound_models import choose_from
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Listing
from paddock.model.hardware import Machine, this_machine
from paddock.model.names import printable
from paddock.model.quantization import is_projector
from paddock.model.reference import Variant
from paddock.model.units import human_bytes
from paddock.planning.companions import left_out_notes
from paddock.planning.file_selection import AUTO, BEST, FileSelection, require_gguf, select_files
from paddock.planning.fitting import machine_target
from paddock.planning.placement import Target
from paddock.planning.plan import MIN_CONTEXT_TOKENS, Plan, PlanRequest, longest_context
from paddock.validation.compatibility import EngineRequirements


@dataclass(frozen=True, slots=True)
class Preflight:
    """The plan for the chosen variant, its requirements on the engine, and the memory of the other variants.

    `passed_over` are (file, reason) of the files that are no candidates, and `skipped` has a line for each of them that
    would have been preferred if it were not broken. `advice` says what to do when nothing fits; it is empty otherwise.
    """

    name: str
    variant: Variant
    quantization: str | None
    file: str
    kind: ModelKind
    plan: Plan
    needs: EngineRequirements
    candidates: tuple[FitCandidate, ...]
    passed_over: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...]
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
            "kind": self.kind,
            "memory": self.plan.memory.to_json(),
            "parameters": self.plan.parameters.to_json(),
            "given_up": list(self.plan.given_up),
            "needs": self.needs.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "passed_over": [{"file": file, "reason": reason} for file, reason in self.passed_over],
            "advice": self.advice,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }

    @property
    def line(self) -> str:
        verdict = "fits" if self.plan.fits else "does not fit"
        total = human_bytes(self.plan.memory.total_bytes)
        return f"{self.variant} of {self.name} {verdict}: {total} with {self.plan.context_tokens} tokens of context"

    def require_fit(self) -> None:
        """Raise DoesNotFit, with the memory that each variant would take, unless the plan fits."""
        if self.plan.fits:
            return
        tokens = self.plan.context_tokens
        candidates = self.candidates[:8]
        sizes = ", ".join(f"{candidate.variant} takes {human_bytes(candidate.total_bytes)}" for candidate in candidates)
        raise DoesNotFit(
            f"{self.name} does not fit with {tokens} tokens of context ({sizes}); "
            f"{human_bytes(self.plan.missing_bytes)} are missing",
            cure=self.advice,
        )


def preflight(
    clients: Clients,
    source: str,
    request: PlanRequest,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    machine: Machine | None = None,
    name: str = "",
) -> Preflight:
    """Plan a SOURCE argument (`source_argument`) for `target`, by default the memory that is free on `machine`, by
    default this one. Messages call it `name`, by default as the argument does.

    Raises ModelRejected for a header that the audit rejects, ConflictingConfiguration, FileNotInRevision, NoGguf, and
    the errors of the Hub, the transfer and the engine.
    """
    began = time.perf_counter()
    models = source_from_argument(clients, source)
    models = replace(models, name=name) if name else models
    machine = machine or this_machine()
    result = _plan_source(clients, models, request, quantization=quantization, target=target, machine=machine)
    return replace(result, seconds=time.perf_counter() - began)


def _preflight_source(
    clients: Clients, source: ModelSource, request: PlanRequest, *, target: Target | None, quantization: str
) -> Preflight:
    """Plan a source for `target`, by default all the memory of this machine, free or not. Raises as `preflight`."""
    began = time.perf_counter()
    result = _plan_source(clients, source, request, quantization=quantization, target=target, machine=idle_machine())
    return replace(result, seconds=time.perf_counter() - began)


def idle_machine() -> Machine:
    """This machine with all of its memory free: a model is acquired for it, whatever runs on it now."""
    machine = this_machine()
    gpus = tuple(replace(gpu, vram_available_bytes=gpu.vram_bytes) for gpu in machine.gpus)
    return replace(machine, ram_available_bytes=machine.ram_bytes, gpus=gpus)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to fetch, and their preflight; None for a projector alone. `note` says why the variant is not the
    model's default one; it is empty where it is."""

    choice: FileSelection
    preflight: Preflight | None
    note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations from the request: another variant than the default, a better file that is broken, a shorter
        context, slower settings, and small files that are left out."""
        plan = self.preflight.plan if self.preflight else None
        skipped = self.preflight.skipped if self.preflight else ()
        given_up = plan.given_up if plan and plan.fits else ()
        note = (self.note,) if self.note else ()
        return (*note, *skipped, *given_up, *left_out_notes(self.choice.left_out))

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
    request: PlanRequest,
    *,
    target: Target | None = None,
    quantization: str = AUTO,
    files: Sequence[str] = (),
    projector: bool = False,
) -> Chosen:
    """Choose the files of a revision that fit `target`, by default this machine.

    With `auto`, the model's default variant is kept while the revision has it and it fits. Where nothing fits, the
    files are returned all the same: `Chosen.require_fit` raises. Raises as `select_files` and `preflight`.
    """
    named = _select_named(clients, listing, files, projector=projector) if files else None
    if named and all(is_projector(path) for path in named.model_files):
        return Chosen(named, None)
    require_gguf(listing)
    source = source_from_listing(clients, listing, files=named.model_files if named else ())
    if projector and not named:
        source = source.with_projectors()

    def choose(quantization: str, note: str = "") -> Chosen:
        result = _preflight_source(clients, source, request, target=target, quantization=quantization)
        choice = named or select_files(
            listing, survey=source.survey, quantization=quantization, projector=projector, prefer=result.file
        )
        return Chosen(choice, result, note)

    default = clients.volume.promoted(listing.model).default if quantization == AUTO and not files else None
    if default is None:
        return choose(quantization)
    try:
        again = choose(default)
    except (FileNotInRevision, MissingShard, ModelRejected) as error:
        return choose(BEST, f"the default variant {default} is not kept: {error.message}")
    if again.preflight is None or again.preflight.plan.fits:
        return again
    best = choose(BEST, f"the default variant {default} is not kept: {again.preflight.line}")
    return best if best.preflight is not None and best.preflight.plan.fits else again


def _select_named(clients: Clients, listing: Listing, files: Sequence[str], *, projector: bool) -> FileSelection:
    """Select files by their paths. Which of several is a projector is told by the names, else by the headers; and a
    projector that is to be added, by its width."""
    if not projector:
        with suppress(BadSetting):
            return select_files(listing, files=files)
    surveyed = source_from_listing(clients, listing).with_projectors().survey
    return select_files(listing, survey=surveyed, files=files, projector=projector)


def _plan_source(
    clients: Clients,
    source: ModelSource,
    request: PlanRequest,
    *,
    quantization: str,
    target: Target | None,
    machine: Machine,
) -> Preflight:
    """Plan the best variant of `source` that `quantization` names, for `target`, by default `machine`. `seconds` of the
    result is 0."""
    by_name = source.requested or quantization not in {AUTO, BEST}
    models, candidates = choose_from(source, quantization)
    source = models.source
    first = models.first(candidates, requested=by_name)
    search = CandidateSearch(models, request, machine.cores)
    on_gpu, margin = False, MARGIN_BYTES
    if target is None:
        on_gpu = _on_gpu(machine, first)
        margin = margin_for(clients, first.needs.architecture, first.needs.engine, machine, on_cpu=not on_gpu)
        target = machine_target(machine, on_gpu=on_gpu, margin_bytes=margin)
    chosen, plan = search.choose(candidates, target, requested=by_name)
    if not plan.fits and margin > MARGIN_BYTES:  # observations are notes that others can write: they forbid nothing
        target = machine_target(machine, on_gpu=on_gpu)
        chosen, plan = search.choose(candidates, target, requested=by_name)
        if plan.fits:
            spare = f"without the margin of {human_bytes(margin)} that earlier loads ask for"
            plan = replace(plan, given_up=(*plan.given_up, f"it fits only {spare}"))
    shown = [model for model in source.sets if model not in models.passed_over or model == chosen.model]
    shown += [] if chosen.model in shown else [chosen.model]
    described = tuple(search.describe(model, chosen, plan, target, requested_by_name=by_name) for model in shown)
    return Preflight(
        name=source.name,
        variant=source.names[chosen.model],
        quantization=chosen.quantization,
        file=chosen.model.first,
        kind=chosen.facts.kind,
        plan=plan,
        needs=chosen.needs,
        candidates=described,
        passed_over=passed_over_files(
            source, {model: reason for model, reason in models.passed_over.items() if model != chosen.model}
        ),
        skipped=() if by_name else models.better_skipped(chosen.model),
        advice="" if plan.fits else _advice(chosen, plan, target),
        bytes_read=models.bytes_read,
        seconds=0.0,
    )


def _on_gpu(machine: Machine, header: ModelHeader) -> bool:
    """Whether this machine has GPUs, and an engine that was built to use them."""
    if not machine.gpus:
        return False
    (memory,) = header.predict_memory([Parameters(n_ctx=MIN_CONTEXT_TOKENS, n_threads=1)])
    return memory.on_gpu


def _advice(chosen: ModelHeader, plan: Plan, target: Target) -> str:
    """Advice for a plan that does not fit."""
    tokens = longest_context(chosen.predict_memory, target, plan, chosen.footprint)
    what = chosen.quantization or printable(chosen.model.first)
    if tokens:
        return f"with {tokens} tokens of context {what} would fit"
    where = "GPU memory and " if target.vram_bytes else ""
    return f"a machine with {human_bytes(plan.missing_bytes)} more {where}memory, or a smaller model, is needed"
