"""Bring a snapshot back from S3 onto the volume."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, RevisionName
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.acquire.restore import restore
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="restore {model}", **policies.FLOW)
def restore_model(model: Model, revision: RevisionName | None = None, promote: bool = True) -> Published:
    """Bring a snapshot from S3 onto the volume, each file verified on the way, and audited anew. The Hub is not asked.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A commit that is in S3, or a branch or tag, which the Hub resolves; when not given, what is promoted
            in S3.
        promote: Whether it becomes the one that is served.
    """
    return restore(PrefectRunner(), reference(model, revision), promote=promote).published
