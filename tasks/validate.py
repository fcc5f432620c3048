"""The steps that judge a snapshot on the volume."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from paddock.lifecycle import documents, judgement, speaking
from paddock.lifecycle.auditing import require_accepted
from paddock.lifecycle.judgement import Compatibility, Judgement
from paddock.lifecycle.locating import locate as find
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, verdict_of
from paddock.planning.targets import parse_target
from paddock.validation.audit import Audit
from tasks import policies, record
from tasks.subject import Subject
from tasks.wiring import parts, reference


@task(task_run_name="locate", **policies.HUB)
def locate(model: str, revision: str | None) -> Manifest:
    """Find the snapshot on the volume. A branch or tag is resolved by the Hub, a commit is taken as it is."""
    return find(parts(), reference(model, revision))


@task(task_run_name="integrity", **policies.LOCAL)
def integrity(manifest: Manifest) -> tuple[Finding, ...]:
    """Read every file once: is each the one that was stored, and are the weights finite?"""
    return judgement.check_integrity(parts(), manifest)


@task(task_run_name="structure", **policies.LOCAL)
def structure(manifest: Manifest, stored: Sequence[Finding], target: str) -> Audit:
    """Judge the GGUF by its header and its chat templates. What is damaged or rejected fails here, after its findings
    are recorded, and reaches no engine."""
    audited = judgement.audit_snapshot(parts(), manifest)
    found = (*stored, *audited.findings)
    record.findings(Subject.of(manifest.id, target), verdict_of(found), found)
    require_accepted(manifest.id.short, verdict_of(found), found)
    return audited


@task(task_run_name="configuration", **policies.LOCAL)
def configuration(manifest: Manifest, audited: Audit) -> tuple[Finding, ...]:
    """Hold the repository's own configuration and licence to what the GGUF says."""
    return judgement.check_configuration(parts(), manifest, audited)


@task(task_run_name="chat", **policies.LOCAL)
def chat(manifest: Manifest, audited: Audit) -> tuple[Finding, ...]:
    """Show how the model is spoken with: its template, where that is from, and what it makes of conversations."""
    spoken = speaking.check_chat(parts(), manifest)
    record.chat(manifest, spoken, audited)
    return spoken.findings


@task(task_run_name="expectations", **policies.LOCAL)
def expectations(manifest: Manifest) -> tuple[Finding, ...]:
    """Hold the files, the tensors, the metadata and the volume's inventory to their laws, and write Data Docs."""
    documented = documents.document(parts(), manifest)
    record.expectations(manifest, documented)
    return documented.findings


@task(task_run_name="compatibility", **policies.ENGINE)
def compatibility(manifest: Manifest, context_tokens: int, target: str) -> Compatibility:
    """Ask the engine what it will allocate for the model, without allocating it."""
    found = judgement.check_compatibility(parts(), manifest, context_tokens, target=parse_target(target))
    record.memory(Subject.of(manifest.id, target), found.preflight)
    for line in found.preflight.plan.given_up:
        get_run_logger().warning("%s", line)
    return found


@task(task_run_name="judge", **policies.LOCAL)
def judge(
    manifest: Manifest, audited: Audit, compatible: Compatibility, beside: Sequence[Finding], target: str
) -> Judgement:
    """Join every check into one verdict. What does not fit fails here, after its findings are recorded."""
    judged = judgement.judge(parts(), manifest, audited, compatible, beside, target=target)
    record.findings(Subject.of(manifest.id, target), judged.verdict, judged.findings)
    get_run_logger().info("%s: %s", manifest.id, judged.verdict)
    judgement.require_sound(manifest, judged)
    return judged
