"""Which snapshot is served: promotion, and the way back."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, RevisionName
from tasks import policies, promote, validate


@flow(flow_run_name="promote-{model}", **policies.FLOW)
def promote_model(model: Model, revision: RevisionName = "main", reason: str = "promoted by hand") -> str:
    """Make a snapshot of the volume the one that is served, and write its dossier anew.

    Args:
        model: The repository on the Hub, `org/name`.
        revision: A branch, a tag or a commit that is on the volume.
        reason: Why, for the model's history.
    """
    manifest = validate.locate(model, revision)
    promote.promote(manifest, reason)
    promote.prune(manifest.model)
    return promote.write_dossier(manifest)


@flow(flow_run_name="rollback-{model}", **policies.FLOW)
def rollback_model(model: Model, reason: str = "rolled back by hand") -> str:
    """Make the snapshot that was promoted before the one that is served.

    Args:
        model: The repository on the Hub, `org/name`.
        reason: Why, for the model's history.
    """
    manifest = promote.rollback(model, reason)
    promote.tell_s3(manifest, reason)
    return promote.write_dossier(manifest)
