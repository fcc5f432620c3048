"""Which snapshot is served: promotion, and the way back."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Model, RevisionName
from tasks import policies, promote, validate


@flow(flow_run_name="promote {model}", **policies.FLOW)
def promote_model(model: Model, revision: RevisionName = "main", reason: str = "promoted by hand") -> str:
    """Promote a snapshot of the volume, make its variant the model's default, and write its dossier anew.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit that is on the volume.
        reason: Why, for the model's history.
    """
    manifest = validate.locate(model, revision)
    promote.promote(manifest, reason, default=True)
    promote.prune(manifest)
    promote.show_reports(manifest)
    return promote.write_dossier(manifest)


@flow(flow_run_name="rollback {model}", **policies.FLOW)
def rollback_model(model: Model, reason: str = "rolled back by hand") -> str:
    """Undo the last change of what a model's name stands for, or that of a variant.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        reason: Why, for the model's history.
    """
    manifest = promote.rollback(model, reason)
    promote.show_reports(manifest)
    return promote.write_dossier(manifest)
