"""Onboard a model from the Hub: run the flow of each phase, up to its promotion."""

from __future__ import annotations

from functools import partial

from prefect import State, flow
from prefect.states import Completed

from flows.acquire import acquire_model
from flows.benchmark import benchmark_on_gpu_worker
from flows.cache import cache_model
from flows.compare import compare_on_gpu_worker
from flows.parameters import ContextTokens, Model, Profile, Quantization, RevisionName, Target
from flows.promote import promote_model
from flows.validate import validate_model
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.dossier import write_dossier
from paddock.lifecycle.onboard import Onboarded, OnboardRequest, Phases, onboard
from paddock.lifecycle.promote.gating import PromotionScope, compare_with_promoted
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest
from tasks import policies
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="onboard {model} {quantization}", **policies.FLOW)
def onboard_model(
    model: Model,
    revision: RevisionName = "main",
    quantization: Quantization = "auto",
    context_tokens: ContextTokens | None = None,
    profile: Profile = "chat",
    target: Target = "this-machine",
    promote: bool = True,
    default: bool = True,
) -> Onboarded | State[Onboarded]:
    """Acquire, validate, cache, benchmark, compare and promote a model, and write its dossier.

    A model that is worse than what is promoted is held back: the run ends as Completed, under the name "Held back".

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit. It is resolved to a commit once, at the start.
        quantization: Variant, file or quantization, such as `Q4_K_M`. `auto` keeps the model's default variant while it
            fits the target; `best` takes the best variant that fits.
        context_tokens: Context that must fit, 256 to 1048576 tokens. By default that of the profile.
        profile: Use of the model: `chat` has 4096 tokens of context, `roleplay` 8192.
        target: Machine that the model must fit: `this-machine`, `any`, GPUs such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of a machine without a GPU, such as `64GiB`.
        promote: Whether to promote the snapshot.
        default: Whether a promotion also makes its variant the model's default.
    """
    runner = PrefectRunner(target)
    wanted, scope = reference(model, revision), PromotionScope(default)
    request = OnboardRequest(wanted, quantization, context_tokens, profile, target, promote, scope)
    result = onboard(runner.clients, Subflows(runner), request)
    run_logger().info(result.line)
    return Completed(name=result.state, message=result.line, data=result) if result.held_back else result


class Subflows(Phases):
    """Runs each phase of an onboarding as a subflow. `catalog` is that of the runner's clients, for the subflows that
    go by it; None: as the settings say."""

    def __init__(self, runner: PrefectRunner, catalog: str | None = None) -> None:
        self._runner = runner
        self._catalog = catalog

    def acquire(self, request: OnboardRequest) -> Published:
        model, revision = request.wanted.name, request.wanted.ref or "main"
        return acquire_model(
            model,
            revision,
            request.quantization,
            request.target,
            context_tokens=request.context,
            catalog=self._catalog,
        )

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        return validate_model(manifest.id.name, manifest.revision, request.context, request.target)

    def cache(self, manifest: Manifest) -> None:
        cache_model(manifest.id.name, manifest.revision)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> None:
        benchmark_on_gpu_worker(manifest, request.context, request.profile, request.target)

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        comparer = partial(compare_on_gpu_worker, target=request.target)
        return compare_with_promoted(self._runner, manifest, comparer, request)

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        scope = request.scope
        return promote_model(
            manifest.id.name,
            manifest.revision,
            reason=request.reason,
            default=scope.default,
            instead_of=scope.instead_of,
            catalog=self._catalog,
        )

    def write_dossier(self, manifest: Manifest) -> str:
        return self._runner.run(write_dossier, manifest).path
