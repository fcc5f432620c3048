"""Audit fetched files before they are published: the GGUF's header and weights, and the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from paddock.chat.template import ChatFormat, choose_chat_format
from paddock.engine.facts import knows_architecture
from paddock.errors import ModelRejected
from paddock.gguf.directory import get_gguf_file_path
from paddock.gguf.reader import FileSource
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.acquired import Acquired
from paddock.model.artifact import Listing
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.quantization import GgufSet, group_shards, is_gguf, local_files
from paddock.planning.file_selection import FileSelection
from paddock.validation.audit import Audit, audit_set, check_projector
from paddock.validation.companions import check_companions, companion_notes


@dataclass(frozen=True, slots=True)
class Audited:
    """The audit of a model's GGUF, and the chat template that it is published with; None for a model that nobody chats
    with."""

    audit: Audit
    chat: ChatFormat | None

    @property
    def notes(self) -> tuple[str, ...]:
        """The small files that are ignored, each with its reason."""
        return companion_notes(self.audit.findings)


@step(Kind.LOCAL, "audit", warnings=lambda audited: audited.notes)
def audit_acquired(clients: Clients, listing: Listing, choice: FileSelection, acquired: Sequence[Acquired]) -> Audited:
    """Audit every chosen GGUF among the acquired files, and choose the model's chat template.

    The facts in the result are those of the first chosen model, which is the one that is loaded; the findings and the
    verdict are of all files.
    """
    with TemporaryDirectory(prefix="paddock-") as directory:
        view = Path(directory)
        for item in acquired:
            link = view / item.file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(clients.volume.blob_path(item.file.sha256).absolute())
        unscanned = {item.file.path for item in acquired if item.weights is None}
        audits = {
            model.first: audit_paths(
                [(path, view / path) for path in model.paths], deep=not unscanned.isdisjoint(model.paths)
            )
            for model in _models(choice)
        }
        audit = audits.pop(choice.model_files[0])
        findings = list(audit.findings)
        for item in acquired:
            prefix = f"{item.file.path}: " if len(choice.model_files) > 1 else ""
            findings += [replace(finding, where=prefix + finding.where) for finding in item.weights or ()]
        for name, other in audits.items():
            findings += [replace(finding, where=f"{name}: {finding.where}") for finding in other.findings]
        for path in choice.projector.paths if choice.projector else ():
            with FileSource(view / path) as source:
                findings += check_projector(source, name=path)
        small_files = [item.file.path for item in acquired if not is_gguf(item.file.path)]
        findings += check_companions(view, small_files)
        audit = replace(audit, findings=tuple(findings), verdict=verdict_of(findings))
        has_chat = audit.model is None or audit.model.kind.generates_text
        return Audited(audit, choose_chat_format(view, str(listing.model)) if has_chat else None)


def _models(choice: FileSelection) -> list[GgufSet]:
    """The files that are audited as models. A projector that was chosen alone is audited as one, and fails."""
    return [gguf for gguf in choice.sets if gguf != choice.projector]


def audit_paths(shards: Iterable[tuple[str, Path]], *, deep: bool = False) -> Audit:
    """Audit a local model; with `deep`, its weights too. `shards` are (name, path) of each shard, in order."""
    with ExitStack() as stack:
        names, sources = [], []
        for name, path in shards:
            names.append(name)
            sources.append(stack.enter_context(FileSource(path)))
        return audit_set(sources, names=names, knows_architecture=knows_architecture, deep=deep)


def shards_of(directory: Path) -> tuple[str, ...]:
    """The shards of the model in a snapshot's directory, relative to it and in order. Raises NoGguf."""
    first = get_gguf_file_path(directory).relative_to(directory).as_posix()
    return next(model.paths for model in group_shards(local_files(directory)) if model.first == first)


def require_accepted(what: str, verdict: Verdict, findings: Sequence[Finding]) -> None:
    """Raise ModelRejected, which names the first rejecting rule and the number of others, if the verdict is reject."""
    if verdict is not Verdict.REJECT:
        return
    worst = [finding for finding in findings if finding.severity is Severity.REJECT]
    more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
    where = f" at {worst[0].where}" if worst[0].where else ""
    rejected = ModelRejected(
        f"{what} is rejected by {worst[0].rule}{where}: {worst[0].message}{more}", cure=worst[0].cure
    )
    rejected.findings = tuple(findings)
    raise rejected
