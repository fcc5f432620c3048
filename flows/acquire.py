"""Fetch the chosen files of a revision onto the volume, verified, and publish them as a snapshot."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, Quantization, RevisionName, Target
from paddock.lifecycle.acquisition import Published
from tasks import acquire, policies, record


@flow(flow_run_name="acquire-{model}", **policies.FLOW)
def acquire_model(
    model: Model,
    revision: RevisionName = "main",
    quantization: Quantization = "auto",
    target: Target = "this-machine",
    projector: bool = False,
) -> Published:
    """Fetch the chosen files of a revision onto the volume, verified, and publish them as a snapshot.

    Args:
        model: The repository on the Hub, `org/name`.
        revision: A branch, a tag or a commit. It is resolved to a commit once.
        quantization: A quantization as in the file names, such as `Q4_K_M`; `auto` takes the best that fits the target.
        target: `this-machine`, or the memory of the machine that will serve, such as `24GiB`.
        projector: Fetch the multimodal projector too.
    """
    listing = acquire.resolve(model, revision)
    plan = acquire.plan(listing, quantization, target, projector=projector)
    download = record.Download(listing.model, plan)
    acquired = [acquire.fetch_file(listing, row, download) for row in plan.rows]
    download.finished(acquired)
    audited = acquire.audit(plan, acquired)
    return acquire.publish(plan, acquired, audited)
