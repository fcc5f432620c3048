"""Copy a snapshot from the volume to S3."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, RevisionName
from paddock.lifecycle.acquire.cache import cache
from paddock.store.copying import CopyResult
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="cache {model}", **policies.FLOW)
def cache_model(model: Model, revision: RevisionName | None = None) -> CopyResult | None:
    """Copy a snapshot from the volume to S3, and verify each file. Does nothing if PADDOCK_S3_URI is not set.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the volume. By default the promoted one.
    """
    _, copied = cache(PrefectRunner(), reference(model, revision))
    return copied
