"""Write the dossier of a snapshot: one Markdown document with its files, checks, memory, benchmark and history.

It is composed from the volume alone: the manifest, the reports and the promotion history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.run.benchmark import read_benchmark
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, worst_verdict
from paddock.model.units import human_bytes
from paddock.planning.targets import THIS_MACHINE

REPORT = "dossier.md"


@dataclass(frozen=True, slots=True)
class Dossier:
    """The document, and the path of the file that it was written to."""

    markdown: str
    path: str


@step(Kind.STORE, "dossier", line=lambda dossier: f"the dossier is at {dossier.path}")
def write_dossier(clients: Clients, manifest: Manifest) -> Dossier:
    """Compose the dossier, and write it to the reports of the volume, and of the remote store if that has the
    snapshot."""
    markdown = compose(clients, manifest)
    path = clients.volume.write_report(manifest.id, REPORT, markdown)
    if clients.remote is not None and clients.remote.snapshot(manifest.id) is not None:
        clients.remote.write_report(manifest.id, REPORT, markdown)
    return Dossier(markdown, path)


def compose(clients: Clients, manifest: Manifest) -> str:
    sections = [
        f"# {manifest.id.name}",
        _summary(clients, manifest),
        "## Files",
        _table(
            ("file", "size", "sha256"),
            ((file.path, human_bytes(file.size), f"`{file.sha256}`") for file in manifest.files),
        ),
        *_checks(clients, manifest),
        *_benchmark(clients, manifest),
        *_history(clients, manifest),
        "Not claimed: that the weights carry no trained-in behaviour that their maker hid.",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(clients: Clients, manifest: Manifest) -> str:
    promoted = clients.volume.promoted(manifest.model)
    state = "no"
    if promoted.holds(manifest.id):
        state = "yes, as the default" if promoted.default_id == manifest.id else "yes"
    validation = read_validation(clients, manifest)
    facts = validation.model if validation else None
    rows = [
        ("revision", f"`{manifest.revision}`"),
        ("variant", manifest.variant),
        ("promoted", state),
        ("quantization", manifest.quantization or "not stated"),
        ("architecture", (facts.architecture if facts else None) or "not known"),
        ("parameters", f"{facts.parameters / 1e6:.1f} million" if facts else "not known"),
        ("trained context", f"{facts.context_length} tokens" if facts and facts.context_length else "not known"),
        ("size", human_bytes(manifest.size_bytes)),
        ("shards", str(manifest.split)),
        ("licence", manifest.licence or "**not stated**"),
        ("chat template", f"sha256 `{manifest.template_sha256}`" if manifest.template_sha256 else "none"),
        ("verdict", worst_verdict([manifest.verdict, *([validation.verdict] if validation else [])])),
        ("fetched from", manifest.source),
        ("published", manifest.created_at.isoformat(timespec="seconds")),
        ("made by", f"Paddock {manifest.paddock_version}, llama-cpp-python {manifest.engine_version}"),
    ]
    return _table(("fact", "value"), rows)


def _checks(clients: Clients, manifest: Manifest) -> list[str]:
    validation = read_validation(clients, manifest)
    if validation is None:
        return ["## Checks", "Not validated yet: run `validate_model`."]
    findings = [_finding(finding) for finding in validation.findings]
    rows = [(name, human_bytes(size)) for name, size in validation.memory.parts()]
    return [
        "## Checks",
        "\n".join(findings) if findings else "Every check passed.",
        f"## Memory at {validation.context_tokens} tokens of context"
        + (f", validated for {_cell(validation.target)}" if validation.target != THIS_MACHINE else ""),
        _table(("part", "size"), rows),
        *(f"Not as requested: {_cell(line)}." for line in validation.given_up),
    ]


def _benchmark(clients: Clients, manifest: Manifest) -> list[str]:
    result = read_benchmark(clients, manifest)
    if result is None:
        return ["## Benchmark", "Not measured yet: run `benchmark_model`."]
    machine = result.machine
    return [
        "## Benchmark",
        f"On {machine.cpu}, {machine.cores} cores, {human_bytes(machine.ram_bytes)}; {result.engine}.",
        _table(("test", "median", "spread"), result.rows()),
    ]


def _history(clients: Clients, manifest: Manifest) -> list[str]:
    rows = [
        (
            change.at.isoformat(timespec="seconds"),
            change.variant,
            f"`{change.revision[:8]}`" if change.revision else "",
            f"`{change.previous[:8]}`" if change.previous else "",
            change.default or "",
            change.why,
        )
        for change in clients.volume.history(manifest.model)
    ]
    return [
        "## Promotions",
        _table(("when", "variant", "revision", "before", "default", "why"), rows) if rows else "None yet.",
    ]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. Cells hold untrusted text: characters that would end a cell or a row are escaped."""
    lines = [tuple(head)]
    lines.append(tuple("---" for _ in lines[0]))
    lines += [tuple(_cell(cell) for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finding(finding: Finding) -> str:
    """A list item: in a table the sentence would be cut off."""
    where = f" at {_cell(finding.where)}" if finding.where else ""
    cure = f": {finding.cure}" if finding.cure else ""
    return f"- **{finding.severity}** {finding.rule}{where}: {_cell(finding.message + cure)}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
