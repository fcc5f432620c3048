"""Onboard a model: acquire, validate, cache, benchmark, compare and promote it, and write its dossier.

`onboard` runs the phases in order. They are passed in: `InProcess` runs each in this process with one runner, and
`flows.phases` runs each as tasks of a Prefect flow, some of them on another worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from paddock.errors import DoesNotFit
from paddock.gguf.kind import ModelKind
from paddock.lifecycle.acquire.acquire import AcquireRequest, acquire
from paddock.lifecycle.acquire.cache import cache
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation, validate
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import dossier_kept_current, write_dossier
from paddock.lifecycle.locate import visible_path
from paddock.lifecycle.promote.gating import DEFAULT_TOO, PromotionScope, compare_with_promoted, in_process
from paddock.lifecycle.promote.promote import promote
from paddock.lifecycle.run.benchmark import measure
from paddock.lifecycle.steps import Runner
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.model.units import human_bytes
from paddock.planning.file_selection import AUTO
from paddock.planning.plan import PlanRequest
from paddock.planning.profile import PROFILES, ProfileName
from paddock.planning.targets import THIS_MACHINE
from paddock.store.copying import CopyResult

_LOG = logging.getLogger(__name__)

HELD_BACK = "Held back"
"""The name of the final state of a run whose candidate the gates did not let through."""


@dataclass(frozen=True, slots=True)
class OnboardRequest:
    """The model to onboard. `context_tokens` is by default that of the profile; `target` is the machine that the model
    must fit, in the notation of `--target`; `promote`: it is promoted, for the `reason`, and made the model's default
    as `scope` says."""

    wanted: Reference
    quantization: str = AUTO
    context_tokens: int | None = None
    profile: ProfileName = "chat"
    target: str = THIS_MACHINE
    promote: bool = True
    scope: PromotionScope = DEFAULT_TOO
    reason: str = "onboarded"

    @property
    def context(self) -> int:
        return self.context_tokens or PROFILES[self.profile].context_tokens

    def for_acquisition(self) -> AcquireRequest:
        plan_request = PlanRequest(self.context, at_most_trained=True)
        return AcquireRequest(self.wanted, self.quantization, plan_request=plan_request, target=self.target)


@dataclass(frozen=True, slots=True)
class Onboarded:
    """The result of an onboarding. `path` is the model's directory, `dossier` the path of the document;
    `transferred_bytes` came over the network in this run. The model was validated with `context_tokens` of context;
    `notes` are deviations from the request. `gates` compare it with what its promotion would replace, if that is
    another model file. `held_back`: it was to be promoted, and the gates did not let it."""

    model: str
    revision: str
    variant: str
    quantization: str | None
    path: str
    dossier: str
    promoted: bool
    transferred_bytes: int
    context_tokens: int
    notes: tuple[str, ...] = ()
    gates: GateReport | None = None
    held_back: bool = False

    @property
    def state(self) -> str:
        """The name of the run's final state."""
        return HELD_BACK if self.held_back else "Completed"

    @property
    def line(self) -> str:
        fetched = f"{human_bytes(self.transferred_bytes)} of model data fetched"
        state = "promoted" if self.promoted else "not promoted"
        verdict = [self.gates.line] if self.gates else []
        line = f"onboarded {self.model}:{self.variant}@{self.revision[:8]} at {self.path}, {fetched}: {state}"
        return "; ".join([line, *verdict, *self.notes] if self.held_back else [line, *self.notes, *verdict])

    def to_json(self) -> dict[str, Any]:
        gates = self.gates.to_json() if self.gates else None
        return {"state": self.state, **asdict(replace(self, gates=None)), "gates": gates}


class Phases(Protocol):
    """The phases of an onboarding. An implementer runs each once, and raises what it raised."""

    def acquire(self, request: OnboardRequest) -> Published: ...

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation: ...

    def cache(self, manifest: Manifest) -> CopyResult | None:
        """Copy the snapshot to the remote store. None where no remote store is set."""
        ...

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> Benchmark | None:
        """Measure the snapshot. None where it is too large for the machine that would do so."""
        ...

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        """Compare the snapshot with what its promotion would replace. None where it would replace no other files."""
        ...

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        """Promote the snapshot, and return the path of its dossier."""
        ...

    def write_dossier(self, manifest: Manifest) -> str:
        """Write the dossier of a snapshot that is not promoted, and return its path."""
        ...


def onboard(clients: Clients, phases: Phases, request: OnboardRequest) -> Onboarded:
    """Bring a model from its name on the Hub to a promoted snapshot with a dossier.

    A snapshot that is worse than the promoted one is held back: it is not promoted, and its dossier says why. Raises
    the errors of each phase (`paddock.errors`). Where it raises before the promotion, the promoted snapshot is
    unchanged.
    """
    published = phases.acquire(request)
    manifest = published.manifest
    validation = phases.validate(manifest, request)
    phases.cache(manifest)
    kind = validation.model.kind if validation.model else ModelKind.TEXT
    notes = _unmeasured(kind, request)
    measured = request if kind.generates_text else replace(request, profile="chat")
    if kind.generates_text or kind.embeds:
        phases.benchmark(manifest, measured)
    gates = phases.compare(manifest, measured)
    promoted = request.promote and (gates is None or gates.passed)
    dossier = phases.promote(manifest, request) if promoted else phases.write_dossier(manifest)
    return Onboarded(
        model=manifest.repository,
        revision=manifest.revision,
        variant=manifest.variant,
        quantization=manifest.quantization,
        path=str(visible_path(clients, manifest.id, promoted=promoted)),
        dossier=dossier,
        promoted=promoted,
        transferred_bytes=published.transferred_bytes,
        context_tokens=validation.context_tokens,
        notes=(*(row.line for row in published.evicted), *validation.given_up, *notes),
        gates=gates,
        held_back=request.promote and not promoted,
    )


def _unmeasured(kind: ModelKind, request: OnboardRequest) -> tuple[str, ...]:
    """A note for what is not measured because of the model's kind."""
    if not (kind.generates_text or kind.embeds):
        return (f"it was not benchmarked, since it is {kind.noun}",)
    if request.profile == "roleplay" and not kind.generates_text:
        return (f"its roleplay was not measured, since it is {kind.noun}",)
    return ()


@contextmanager
def skip_if_too_large(manifest: Manifest, target: str, *, warn: Callable[..., None] = _LOG.warning) -> Iterator[None]:
    """Skip the benchmark of a model that is meant for another machine and does not fit this one: DoesNotFit becomes a
    warning, and the dossier has no benchmark. For `this-machine`, DoesNotFit is raised."""
    try:
        yield
    except DoesNotFit:
        if target == THIS_MACHINE:
            raise
        warn("%s was not benchmarked: it is meant for %s, and does not fit this machine", manifest.id.name, target)


class InProcess(Phases):
    """The phases, run in this process with one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def acquire(self, request: OnboardRequest) -> Published:
        return acquire(self._runner, request.for_acquisition())

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        wanted = manifest.id.reference
        with dossier_kept_current(self._runner.clients, wanted):
            return validate(self._runner, wanted, request.context, target=request.target)

    def cache(self, manifest: Manifest) -> CopyResult | None:
        return cache(self._runner, manifest.id.reference)[1]

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> Benchmark | None:
        with skip_if_too_large(manifest, request.target):
            return measure(self._runner, manifest, request.context, roleplay=request.profile == "roleplay")[0]
        return None

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        return compare_with_promoted(self._runner, manifest, in_process(self._runner, target=request.target), request)

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        result = promote(
            self._runner,
            manifest.id.reference,
            reason=request.reason,
            default=request.scope.default,
            instead_of=request.scope.instead_of,
        )
        return result.dossier

    def write_dossier(self, manifest: Manifest) -> str:
        return self._runner.run(write_dossier, manifest).path
