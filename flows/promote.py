"""Promote a snapshot, and roll back a promotion."""

from __future__ import annotations

from prefect import flow

from flows.compare import compare_on_gpu_worker
from flows.parameters import CatalogName, Model, RevisionName, VariantName
from paddock.lifecycle.promote.promote import promote, rollback
from paddock.model.reference import Reference, parse_variant
from tasks import policies
from tasks.run_log import run_logger
from tasks.runner import PrefectRunner
from tasks.secret_blocks import connect_run
from tasks.wiring import reference


@flow(flow_run_name="promote {model}", **policies.FLOW)
def promote_model(
    model: Model,
    revision: RevisionName = "main",
    reason: str = "promoted by hand",
    force: bool = False,
    default: bool = True,
    instead_of: VariantName | None = None,
    catalog: CatalogName | None = None,
) -> str:
    """Promote a snapshot of the volume, make its variant the model's default, and write its dossier.

    Where it replaces other files, the gates decide. If it was not compared with them, that is done first.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the volume.
        reason: Reason, for the model's history.
        force: Whether to promote it although the gates held it back. It needs a reason of its own.
        default: Whether to make its variant the model's default.
        instead_of: Variant whose place it takes. It is compared with that one, unless it replaces another snapshot.
        catalog: File on the worker, or object in S3, with the bounds of the gates, and how many revisions are kept. By
            default as the worker's settings say.
    """
    result = promote(
        PrefectRunner(clients=connect_run(catalog)),
        reference(model, revision),
        reason=reason,
        force=force,
        default=default,
        instead_of=parse_variant(instead_of) if instead_of else None,
        comparer=compare_on_gpu_worker,
        announce=run_logger().info,
    )
    return result.dossier


@flow(flow_run_name="rollback {model}", **policies.FLOW)
def rollback_model(model: Model, reason: str = "rolled back by hand") -> str:
    """Undo the last change of a model's default, or of a variant's promoted revision.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        reason: Reason, for the model's history.
    """
    return rollback(PrefectRunner(), Reference.parse(model), reason=reason).dossier
