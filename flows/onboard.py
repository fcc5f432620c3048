"""From a name on the Hub to a promoted model: the whole life, through the flows of its phases."""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.acquire import acquire_model
from flows.benchmark import benchmark_where_it_serves
from flows.cache import cache_model
from flows.parameters import ContextTokens, Model, Profile, Quantization, RevisionName, Target
from flows.promote import promote_model
from flows.validate import validate_model
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.dossier import write_dossier
from paddock.lifecycle.onboard import Onboarded, OnboardRequest, Phases, onboard
from paddock.model.artifact import Manifest
from tasks import policies
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
) -> Onboarded:
    """Preflight, acquire, validate, cache, benchmark and promote a model, and write its dossier.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit. It is resolved to a commit once.
        quantization: A variant, file or quantization, such as `Q4_K_M`; `auto` keeps the default's variant while it
            fits the target, and `best` takes the best that does.
        context_tokens: The context that it will serve, in tokens; by the profile when not given.
        profile: What it will be used for: `chat` takes 4096 tokens of context, `roleplay` 8192.
        target: `this-machine`, `any`, or the machine that will serve: a card such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of one without a GPU, such as `64GiB`.
        promote: Whether it is promoted, and its variant becomes the model's default.
    """
    runner = PrefectRunner(target)
    request = OnboardRequest(reference(model, revision), quantization, context_tokens, profile, target, promote)
    result = onboard(runner.clients, Subflows(runner), request)
    get_run_logger().info(result.line)
    return result


class Subflows(Phases):
    """The phases of an onboarding, each as a flow run below this one."""

    def __init__(self, runner: PrefectRunner) -> None:
        self._runner = runner

    def acquire(self, request: OnboardRequest) -> Published:
        model, revision = request.wanted.name, request.wanted.ref or "main"
        return acquire_model(model, revision, request.quantization, request.target, context_tokens=request.context)

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        return validate_model(manifest.id.name, manifest.revision, request.context, request.target)

    def cache(self, manifest: Manifest) -> None:
        cache_model(manifest.id.name, manifest.revision)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> None:
        benchmark_where_it_serves(manifest, request.context, request.profile, request.target)

    def promote(self, manifest: Manifest) -> str:
        return promote_model(manifest.id.name, manifest.revision, reason="onboarded")

    def write_dossier(self, manifest: Manifest) -> str:
        return self._runner.run(write_dossier, manifest).path
