"""Audit fetched files before they are published: the GGUF's header and weights, and the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from paddock.chat.template import Chat, chat_of
from paddock.engine.facts import knows_architecture
from paddock.errors import ModelRejected
from paddock.gguf.reader import FileSource
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
from paddock.model.acquired import Acquired
from paddock.model.artifact import Listing
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.quantization import GgufSet, get_gguf_file_path, group_shards, local_files
from paddock.planning.file_selection import FileSelection
from paddock.validation.audit import Audit, audit_set, check_projector


@dataclass(frozen=True, slots=True)
class Audited:
    """The audit of a model's GGUF, and how it is spoken with: by its own template where that is sound."""

    audit: Audit
    chat: Chat


@step(Kind.LOCAL, "audit")
def audit_acquired(clients: Clients, listing: Listing, choice: FileSelection, acquired: Sequence[Acquired]) -> Audited:
    """Audit every chosen GGUF among files that are blobs of the volume, and choose the model's chat template.

    The facts are those of the model that will be loaded; the findings and the verdict are of all.
    """
    with TemporaryDirectory(prefix="paddock-") as directory:
        view = Path(directory)
        for one in acquired:
            shown = view / one.file.path
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.symlink_to(clients.volume.blob_path(one.file.sha256).absolute())
        unseen = {one.file.path for one in acquired if one.weights is None}
        audits = {
            one.first: audit_paths([(path, view / path) for path in one.paths], deep=not unseen.isdisjoint(one.paths))
            for one in _models(choice)
        }
        audit = audits.pop(choice.model_files[0])
        findings = list(audit.findings)
        for one in acquired:
            prefix = f"{one.file.path}: " if len(choice.model_files) > 1 else ""
            findings += [replace(found, where=prefix + found.where) for found in one.weights or ()]
        for name, other in audits.items():
            findings += [replace(finding, where=f"{name}: {finding.where}") for finding in other.findings]
        for path in (path for one in choice.sets if one.is_projector for path in one.paths):
            with FileSource(view / path) as source:
                findings += check_projector(source, name=path)
        whole = replace(audit, findings=tuple(findings), verdict=verdict_of(findings))
        return Audited(whole, chat_of(view, str(listing.model)))


def _models(choice: FileSelection) -> list[GgufSet]:
    """What is judged as a model. A projector that was chosen alone is, and fails."""
    return [one for one in choice.sets if not one.is_projector or one.paths == choice.model_files]


def audit_paths(shards: Iterable[tuple[str, Path]], *, deep: bool = False) -> Audit:
    """Audit a local model, given the name and the place of each of its shards in order; with `deep` its weights too."""
    with ExitStack() as stack:
        names, sources = [], []
        for name, path in shards:
            names.append(name)
            sources.append(stack.enter_context(FileSource(path)))
        return audit_set(sources, names=names, knows_architecture=knows_architecture, deep=deep)


def shards_of(directory: Path) -> tuple[str, ...]:
    """The files of the model that a directory is served by, relative to it and in order. Raises NoGguf."""
    first = get_gguf_file_path(directory).relative_to(directory).as_posix()
    return next(one.paths for one in group_shards(local_files(directory)) if one.first == first)


def require_accepted(what: str, verdict: Verdict, findings: Sequence[Finding]) -> None:
    """The gate: raise ModelRejected that names the first rejecting rule, and how many there are."""
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
