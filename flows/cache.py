"""Copy a snapshot from the volume to S3."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, RevisionName
from paddock.lifecycle.acquire.cache import cache
from paddock.store.copying import Copied
from tasks import policies
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="cache {model}", **policies.FLOW)
def cache_model(model: Model, revision: RevisionName | None = None) -> Copied | None:
    """Copy a snapshot from the volume to S3, each file verified on the way. Without PADDOCK_S3_URI there is nothing to
    do.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit that is on the volume; when not given, what is promoted.
    """
    _, copied = cache(PrefectRunner(), reference(model, revision))
    return copied
