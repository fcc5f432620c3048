"""Acquire a model: resolve, preflight, plan, fetch, audit, publish. It does not promote it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from paddock.lifecycle.acquire.fetch import fetch_file
from paddock.lifecycle.acquire.plan import AcquisitionPlan, plan_files
from paddock.lifecycle.acquire.publish import Published, publish
from paddock.lifecycle.acquire.resolve import resolve
from paddock.lifecycle.acquire.transfers import fetch_files
from paddock.lifecycle.assess.audit import audit_acquired
from paddock.lifecycle.assess.header_cache import is_cached_head_right
from paddock.lifecycle.assess.preflight import Chosen, choose_fitting
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import requested_quantization
from paddock.lifecycle.steps import Runner
from paddock.lifecycle.stored_listing import MAIN
from paddock.model.acquired import Acquired
from paddock.model.artifact import Listing
from paddock.model.quantization import is_gguf
from paddock.model.reference import Reference
from paddock.planning.file_selection import AUTO, BEST
from paddock.planning.placement import Target
from paddock.planning.plan import PlanRequest
from paddock.planning.profile import PROFILES
from paddock.planning.targets import THIS_MACHINE, parse_target

_LOG = logging.getLogger(__name__)
SERVED = PlanRequest(PROFILES["chat"].context_tokens, at_most_trained=True)
"""Default plan request: the context that a model must fit with."""


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """The model to acquire. `quantization` names a variant, a file or a quantization; `auto` keeps the default variant
    while it fits, `best` chooses the best variant that fits. `files` names GGUF files instead.

    `target` is the machine that it must fit, in the notation of `--target`; `machine` is the same as memory sizes, by
    default parsed from `target`. `for_promotion`: check before the download that the links on the volume that a
    promotion needs are free.
    """

    wanted: Reference
    quantization: str = AUTO
    files: Sequence[str] = ()
    projector: bool = False
    plan_request: PlanRequest = SERVED
    target: str = THIS_MACHINE
    machine: Target | None = None
    for_promotion: bool = True


def acquire(runner: Runner, request: AcquireRequest) -> Published:
    """Fetch the chosen files of a revision onto the volume, verify and audit them, and publish them as a snapshot.

    Raises the errors of each step (`paddock.errors`). A run that ends before the last step leaves blobs and partial
    files, which the next run uses.
    """
    quantization = requested_quantization(request.wanted.variant, request.quantization)
    machine = request.machine or parse_target(request.target)
    variant = quantization if quantization not in {AUTO, BEST} else None
    listing = runner.run(resolve, request.wanted.model, request.wanted.ref or MAIN, variant=variant)
    chosen, plan, acquired = _fetch_chosen(runner, request, listing, quantization, machine)
    if not are_cached_heads_right(runner.clients, acquired):
        _LOG.warning("%s was chosen by other headers than its files have: it is planned again", plan.id.short)
        chosen, plan, acquired = _fetch_chosen(runner, request, listing, quantization, machine)
    audited = runner.run(audit_acquired, listing, plan.choice, acquired)
    return runner.run(publish, plan, acquired, audited, notes=(*chosen.notes, *audited.notes))


def _fetch_chosen(
    runner: Runner, request: AcquireRequest, listing: Listing, quantization: str, machine: Target | None
) -> tuple[Chosen, AcquisitionPlan, tuple[Acquired, ...]]:
    """Choose the files that fit, and fetch them."""
    chosen = runner.run(
        choose_fitting,
        listing,
        request.plan_request,
        target=machine,
        quantization=quantization,
        files=request.files,
        projector=request.projector,
    )
    chosen.require_fit()
    plan = runner.run(plan_files, listing, chosen, for_promotion=request.for_promotion)
    listener = runner.listener(plan.id)
    listener.on_start(plan.fetch_bytes)
    acquired = fetch_files(
        runner,
        plan.files,
        lambda planned, progress, cancel: runner.run(fetch_file, listing, planned, progress=progress, cancel=cancel),
        listener,
    )
    listener.on_finish(acquired)
    return chosen, plan, acquired


def are_cached_heads_right(clients: Clients, acquired: Sequence[Acquired]) -> bool:
    """Whether the headers by which files were chosen, before they were fetched, are those of the verified files."""
    right = [
        is_cached_head_right(clients.settings, item.file.sha256, clients.volume.blob_path(item.file.sha256))
        for item in acquired
        if is_gguf(item.file.path)
    ]
    return all(right)
