"""Validate and measure a promoted snapshot anew, since the engine is another one than measured it."""

from __future__ import annotations

from dataclasses import replace

from paddock.errors import ModelError, NotOnVolume
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import OnboardRequest, Phases
from paddock.lifecycle.promote.bounds import bounds_with
from paddock.lifecycle.run.engine_change import closest_to, what_got_worse, worse_verdict
from paddock.lifecycle.run.stored_benchmarks import benchmark_history
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry
from paddock.model.artifact import Manifest


def measure_again(clients: Clients, phases: Phases, planned: PlannedEntry, request: OnboardRequest) -> tuple[str, ...]:
    """Validate and benchmark what is promoted of an entry, and return what got worse, a line for each.

    A model that the engine rejects now stays promoted, since nothing else is there. Raises NotOnVolume where nothing is
    promoted, and the errors of an engine that could not be used.
    """
    manifest = _promoted(clients, planned)
    before, earlier = benchmark_history(clients, manifest), read_validation(clients, manifest)
    try:
        validation = phases.validate(manifest, request)
    except ModelError as error:
        phases.write_dossier(manifest)
        return (f"it is rejected with this engine: {error.message}",)
    kind = validation.model.kind if validation.model else ModelKind.TEXT
    if kind.generates_text or kind.embeds:
        phases.benchmark(manifest, request if kind.generates_text else replace(request, profile="chat"))
    worse = worse_verdict(earlier, validation)
    after = next((result for result in reversed(benchmark_history(clients, manifest)) if result not in before), None)
    comparable = closest_to(after, before) if after else None
    if after is not None and comparable is not None:
        bounds = bounds_with({str(name): bound for name, bound in planned.entry.gates.items()})
        worse += what_got_worse(
            comparable, after, decode=bounds.decode, prefill=bounds.prefill, first=bounds.time_to_first_token
        )
    phases.write_dossier(manifest)
    return tuple(worse)


def _promoted(clients: Clients, planned: PlannedEntry) -> Manifest:
    promoted = clients.volume.promoted(planned.model)
    id = promoted.of(planned.variant) if planned.variant else promoted.default_id
    manifest = clients.volume.snapshot(id) if id else None
    if manifest is None:
        raise NotOnVolume(f"nothing of {planned.entry.name} is promoted any more", cure="run the refresh again")
    return manifest
