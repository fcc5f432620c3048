"""Restore a snapshot from S3 onto the volume."""

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
    """Copy a snapshot from S3 onto the volume, verify each file, and audit it again, without the Hub.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Commit in S3, or a branch or tag, which the Hub resolves. By default the one promoted in S3.
        promote: Whether to promote the snapshot on the volume.
    """
    return restore(PrefectRunner(), reference(model, revision), promote=promote).published
