"""Fetch the chosen files of a revision onto the volume, verify and audit them, and publish them as a snapshot."""

from __future__ import annotations

from prefect import flow

from flows.parameters import CatalogName, ContextTokens, Model, Quantization, RevisionName, Target
from paddock.lifecycle.acquire.acquire import AcquireRequest, acquire
from paddock.lifecycle.acquire.publish import Published
from paddock.planning.plan import PlanRequest
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.secret_blocks import connect_run
from tasks.wiring import reference


@flow(flow_run_name="acquire {model} {quantization}", **policies.FLOW)
def acquire_model(
    model: Model,
    revision: RevisionName = "main",
    quantization: Quantization = "auto",
    target: Target = "this-machine",
    projector: bool = False,
    context_tokens: ContextTokens = 4096,
    catalog: CatalogName | None = None,
) -> Published:
    """Fetch the chosen files of a revision onto the volume, verify and audit them, and publish them as a snapshot.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit. It is resolved to a commit once, at the start.
        quantization: Variant, file or quantization, such as `Q4_K_M`. `auto` keeps the model's default variant while it
            fits the target; `best` takes the best variant that fits.
        target: Machine that the model must fit: `this-machine`, `any`, GPUs such as `rtx-4090`, `2x-a100-80gb` or
            `24GiB-gpu`, or the memory of a machine without a GPU, such as `64GiB`.
        projector: Whether to fetch the multimodal projector too.
        context_tokens: Context that must fit, 256 to 1048576 tokens. For a model that was trained for less, its trained
            context.
        catalog: File on the worker, or object in S3, with the models that an eviction keeps. By default as the worker's
            settings say.
    """
    request = AcquireRequest(
        reference(model, revision),
        quantization,
        projector=projector,
        plan_request=PlanRequest(context_tokens, at_most_trained=True),
        target=target,
    )
    return acquire(PrefectRunner(target, connect_run(catalog)), request)
