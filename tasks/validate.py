"""The steps that judge a snapshot on the volume."""

from __future__ import annotations

from prefect import get_run_logger, task

from paddock.lifecycle import judgement
from paddock.lifecycle.judgement import Judgement, Needed
from paddock.lifecycle.promotion import resolve_on_volume
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.validation.audit import Audit
from tasks import policies, record
from tasks.target import memory_of
from tasks.wiring import parts


@task(task_run_name="locate", **policies.HUB)
def locate(model: str, revision: str) -> Manifest:
    """Find the snapshot on the volume. A branch or tag is resolved by the Hub, a commit is taken as it is."""
    return resolve_on_volume(parts(), ModelName.parse(model), revision)


@task(task_run_name="audit", **policies.LOCAL)
def audit(manifest: Manifest) -> Audit:
    """Read the GGUF as it lies on the volume: its header, its chat template, and whether its weights are finite."""
    return judgement.audit_snapshot(parts(), manifest, deep=True)


@task(task_run_name="measure-memory", **policies.ENGINE)
def measure_memory(manifest: Manifest, audited: Audit, context_tokens: int, target: str) -> Needed:
    """Ask the engine what it will allocate for the model, without allocating it."""
    needed = judgement.measure_memory(parts(), manifest, audited, context_tokens)
    record.memory(manifest.model, needed, available_bytes=memory_of(target))
    return needed


@task(task_run_name="judge", **policies.LOCAL)
def judge(manifest: Manifest, audited: Audit, needed: Needed, target: str) -> Judgement:
    """Join every check into one verdict. What is rejected fails here, after its findings are recorded."""
    judged = judgement.judge(parts(), manifest, audited, needed, available_bytes=memory_of(target))
    record.findings(manifest.model, judged.verdict, judged.findings)
    get_run_logger().info("%s@%s: %s", manifest.repository, manifest.revision, judged.verdict)
    judgement.require_sound(manifest, judged)
    return judged
