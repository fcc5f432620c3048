"""Validate and measure a promoted snapshot anew, since the engine is another one than measured it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paddock.errors import EngineCrashed, ModelError, NotOnVolume
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import OnboardRequest, Phases
from paddock.lifecycle.promote.bounds import bounds_with
from paddock.lifecycle.run.engine_change import closest_to, what_got_worse, worse_verdict
from paddock.lifecycle.run.stored_benchmarks import benchmark_history
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry
from paddock.measure.benchmark_report import Benchmark
from paddock.model.artifact import Manifest


def measure_again(clients: Clients, phases: Phases, planned: PlannedEntry, request: OnboardRequest) -> tuple[str, ...]:
    """Validate and benchmark what is promoted of an entry, and return what got worse, a line for each.

    A model that the engine rejects now, or that kills it, stays promoted, since nothing else is there. Raises
    NotOnVolume where nothing is promoted, and the errors of an engine that could not be used.
    """
    manifest = _promoted(clients, planned)
    before, earlier = benchmark_history(clients, manifest), read_validation(clients, manifest)
    try:
        validation = phases.validate(manifest, request)
        kind = validation.model.kind if validation.model else ModelKind.TEXT
        if kind.generates_text or kind.embeds:
            phases.benchmark(manifest, request if kind.generates_text else replace(request, profile="chat"))
    except (ModelError, EngineCrashed) as error:
        if isinstance(error, EngineCrashed) and not error.by_signal:
            raise
        worse = [f"it cannot be used with this engine: {error.message}"]
    else:
        worse = [*worse_verdict(earlier, validation), *_slower(clients, manifest, planned, before)]
    phases.write_dossier(manifest)
    return tuple(worse)


def _slower(clients: Clients, manifest: Manifest, planned: PlannedEntry, before: Sequence[Benchmark]) -> Sequence[str]:
    """List the figures that got worse since earlier benchmarks, by the bounds of the entry's gates."""
    after = next((result for result in reversed(benchmark_history(clients, manifest)) if result not in before), None)
    comparable = closest_to(after, before) if after else None
    if after is None or comparable is None:
        return ()
    bounds = bounds_with({str(name): bound for name, bound in planned.entry.gates.items()})
    return what_got_worse(
        comparable, after, decode=bounds.decode, prefill=bounds.prefill, first=bounds.time_to_first_token
    )


def _promoted(clients: Clients, planned: PlannedEntry) -> Manifest:
    promoted = clients.volume.promoted(planned.model)
    id = promoted.of(planned.variant) if planned.variant else promoted.default_id
    manifest = clients.volume.snapshot(id) if id else None
    if manifest is None:
        raise NotOnVolume(f"nothing of {planned.entry.name} is promoted any more", cure="run the refresh again")
    return manifest
