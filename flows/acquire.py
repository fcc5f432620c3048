"""Fetch the chosen files of a revision onto the volume, verified, and publish them as a snapshot."""

from __future__ import annotations

from prefect import flow

from flows.parameters import ContextTokens, Model, Quantization, RevisionName, Target
from paddock.lifecycle.acquire.acquire import AcquireRequest, acquire
from paddock.lifecycle.acquire.publish import Published
from paddock.planning.plan import PlanRequest
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="acquire {model} {quantization}", **policies.FLOW)
def acquire_model(
    model: Model,
    revision: RevisionName = "main",
    quantization: Quantization = "auto",
    target: Target = "this-machine",
    projector: bool = False,
    context_tokens: ContextTokens = 4096,
) -> Published:
    """Fetch the chosen files of a revision onto the volume, verified, and publish them as a snapshot.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit. It is resolved to a commit once.
        quantization: A variant, file or quantization, such as `Q4_K_M`; `auto` keeps the default's variant while it
            fits the target, and `best` takes the best that does.
        target: `this-machine`, `any`, or the machine that will serve: a card such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of one without a GPU, such as `64GiB`.
        projector: Fetch the multimodal projector too.
        context_tokens: The context that it must fit with, in tokens. A model trained for less is asked for that.
    """
    request = AcquireRequest(
        reference(model, revision),
        quantization,
        projector=projector,
        plan_request=PlanRequest(context_tokens, at_most_trained=True),
        target=target,
    )
    return acquire(PrefectRunner(target), request)
