"""From a name on the Hub to a promoted model: the whole life, through the flows of its phases."""

from __future__ import annotations

from prefect import flow

from flows.acquire import acquire_model
from flows.benchmark import benchmark_where_it_serves
from flows.cache import cache_model
from flows.parameters import ContextTokens, Model, Profile, Quantization, RevisionName, Target
from flows.promote import promote_model
from flows.validate import validate_model
from paddock.lifecycle.dossier import Onboarded
from paddock.planning.profile import PROFILES
from tasks import policies
from tasks.promote import onboarded, write_dossier


@flow(flow_run_name="onboard-{model}", **policies.FLOW)
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
        model: The repository on the Hub, `org/name`.
        revision: A branch, a tag or a commit. It is resolved to a commit once.
        quantization: A quantization as in the file names, such as `Q4_K_M`; `auto` takes the best that fits the target.
        context_tokens: The context that it will serve, in tokens; by the profile when not given.
        profile: What it will be used for: `chat` takes 4096 tokens of context, `roleplay` 8192.
        target: `this-machine`, `any`, or the machine that will serve: a card such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of one without a GPU, such as `64GiB`.
        promote: Whether it becomes the one that is served.
    """
    context = context_tokens or PROFILES[profile].context_tokens
    acquired = acquire_model(model, revision, quantization, target, context_tokens=context)
    commit = acquired.manifest.revision
    validate_model(model, commit, context, target)
    cache_model(model, commit)
    benchmark_where_it_serves(acquired.manifest, context, profile, target)
    dossier = promote_model(model, commit, reason="onboarded") if promote else write_dossier(acquired.manifest)
    return onboarded(acquired, dossier, promoted=promote)
