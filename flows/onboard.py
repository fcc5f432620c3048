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
    context = context_tokens or PROFILES[profile].context_tokens
    acquired = acquire_model(model, revision, quantization, target, context_tokens=context)
    name, commit = acquired.manifest.id.name, acquired.manifest.revision
    judged = validate_model(name, commit, context, target)
    cache_model(name, commit)
    benchmark_where_it_serves(acquired.manifest, context, profile, target)
    dossier = promote_model(name, commit, reason="onboarded") if promote else write_dossier(acquired.manifest)
    return onboarded(acquired, judged, dossier, promoted=promote)
