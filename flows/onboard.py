"""Onboard a model from the Hub: acquire, validate, cache, benchmark, compare and promote it."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from flows.parameters import ContextTokens, Model, Profile, Quantization, RevisionName, Target
from flows.phases import FlowPhases
from paddock.lifecycle.onboard import Onboarded, OnboardRequest, onboard
from paddock.lifecycle.promote.gating import PromotionScope
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
) -> State[Onboarded]:
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
    result = onboard(runner.clients, FlowPhases(runner), request)
    run_logger().info(result.line)
    return Completed(name=result.state, message=result.line, data=result)
