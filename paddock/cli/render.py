"""Render the results of commands for people, as tables and lines on stdout. Scripts read the JSON instead.

Names, licences, reasons and findings are untrusted text, and `paddock.cli.printing` prints it. Progress is
`paddock.cli.progress`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from paddock.cli.printing import TextTable, print_line, print_markdown
from paddock.model.units import counted, human_bytes, human_time
from paddock.store.manifests import MAX_DOCUMENT_BYTES
from paddock.untrusted.files import read_regular

if TYPE_CHECKING:
    from paddock.chat.template import ChatFormat
    from paddock.lifecycle.acquire.pull import Pulled
    from paddock.lifecycle.acquire.restore import Restored
    from paddock.lifecycle.assess.inspect import Inspection
    from paddock.lifecycle.assess.preflight import Preflight
    from paddock.lifecycle.eviction.evicted import Evicted
    from paddock.lifecycle.onboard import Onboarded
    from paddock.lifecycle.promote.retention import Pruned
    from paddock.lifecycle.run.serve import Serving
    from paddock.lifecycle.upkeep.verify import Verified
    from paddock.measure.benchmark_report import Benchmark
    from paddock.measure.quality import Quality
    from paddock.measure.tuning import Tuning
    from paddock.model.artifact import Manifest
    from paddock.store.history import Promoted, Promotion

_SHOWN_PARAMETERS = (
    "n_ctx",
    "n_seq_max",
    "n_gpu_layers",
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "flash_attn",
)
_COLOURS = {"accept": "green", "warn": "yellow", "reject": "red", "info": "blue"}


def render_pull(pulled: Pulled) -> None:
    render_restoration(pulled)
    for note in pulled.notes:
        print_line(note)
    render_pruned(pulled.pruned)


def render_pruned(pruned: Pruned) -> None:
    if pruned.removed:
        print_line(pruned.line)


def render_restoration(result: Pulled | Restored) -> None:
    table = TextTable("file", "size", "from", "sha256")
    for item in result.acquired:
        table.add(item.file.path, human_bytes(item.file.size), item.origin, item.file.sha256[:16])
    table.print()
    for evicted in result.published.evicted:
        print_line(evicted.line)
    state = "promoted" if result.promoted else "not promoted"
    manifest = result.manifest
    print_line(
        f"{manifest.id.short} at {result.path}: {state}; "
        f"{human_bytes(result.transferred_bytes)} fetched in {result.seconds:.1f} s"
    )


def render_inspection(inspection: Inspection) -> None:
    audit = inspection.audit
    if audit.model is not None:
        table = TextTable("", "")
        for name, value in asdict(audit.model).items():
            shown = human_bytes(value) if name == "size_bytes" and isinstance(value, int) else str(value)
            table.add(name, shown)
        table.print()
    for finding in audit.findings:
        where = f" ({finding.where})" if finding.where else ""
        cure = f": {finding.cure}" if finding.cure else ""
        text = f" {finding.rule}{where}: {finding.message}{cure}"
        print_line(text, word=finding.severity, style=_COLOURS[finding.severity])
    cost = f"{human_bytes(inspection.bytes_read)} read in {inspection.seconds:.2f} s"
    print_line(f" {inspection.name}: {cost}", word=audit.verdict, style=_COLOURS[audit.verdict])


def render_preflight(result: Preflight) -> None:
    table = TextTable("variant", "quantization", "file", "size", "memory", "fits", "why")
    for candidate in result.candidates:
        cells = (
            candidate.variant,
            candidate.quantization or "",
            candidate.file,
            human_bytes(candidate.size_bytes),
            human_bytes(candidate.total_bytes),
        )
        table.add(*cells, "yes" if candidate.fits else "no", candidate.reason)
    table.print()
    for file, reason in result.passed_over:
        print_line(f"passed over: {file}: {reason}")
    plan = result.plan
    for name, size in plan.memory.parts():
        print_line(f"{name}: {human_bytes(size)}")
    shown_parameters = {name: value for name, value in plan.parameters.to_json().items() if name in _SHOWN_PARAMETERS}
    print_line(", ".join(f"{name} {value}" for name, value in shown_parameters.items()))
    for line in plan.given_up:
        print_line(line)
    verdict = "fits" if plan.fits else "does not fit"
    cost = f"{human_bytes(result.bytes_read)} read in {result.seconds:.2f} s"
    style = "green" if plan.fits else "red"
    print_line(f" {result.variant} of {result.name}: {cost}", word=verdict, style=style)
    if result.advice:
        print_line(result.advice)


def render_onboarding(result: Onboarded) -> None:
    print_markdown(read_regular(result.dossier, max_bytes=MAX_DOCUMENT_BYTES).decode(errors="replace"))
    print_line(result.line)


def render_entries(rows: Sequence[Mapping[str, Any]], apparent: int, real: int, *, where: str = "on the disk") -> None:
    table = TextTable("model", "variant", "revision", "quantization", "size", "promoted", "last used", "uses", "pinned")
    for row in rows:
        table.add(
            row["model"],
            row["variant"],
            row["revision"][:8],
            row["quantization"] or "",
            human_bytes(row["size_bytes"]),
            "yes, default" if row["default"] else "yes" if row["promoted"] else "",
            (row["last_used"] or "")[:16].replace("T", " "),
            str(row["uses"]),
            "yes" if row["pinned"] else "",
        )
    table.print()
    print_line(f"{counted(len(rows), 'snapshot')}, {human_bytes(apparent)}; {human_bytes(real)} {where}")


def render_manifest(manifest: Manifest, *, promoted: Promoted, chat: ChatFormat) -> None:
    table = TextTable("", "")
    state = "yes" if promoted.holds(manifest.id) else "no"
    for name, value in (
        ("model", manifest.repository),
        ("variant", manifest.variant),
        ("revision", manifest.revision),
        ("promoted", "yes, as the default" if promoted.default_id == manifest.id else state),
        ("quantization", manifest.quantization or "not stated"),
        ("licence", manifest.licence or "not stated"),
        ("verdict", manifest.verdict.value),
        ("chat template", f"from {chat.origin}: {chat.why}"),
        ("an answer ends at", " or ".join(["the model's end token", *map(repr, chat.stop)])),
        ("published", manifest.created_at.isoformat(timespec="seconds")),
        ("made by", f"Paddock {manifest.paddock_version}, llama-cpp-python {manifest.engine_version}"),
    ):
        table.add(name, value)
    table.print()
    files = TextTable("file", "size", "sha256")
    for file in manifest.files:
        files.add(file.path, human_bytes(file.size), file.sha256)
    files.print()


def render_history(history: Sequence[Promotion]) -> None:
    table = TextTable("when", "variant", "revision", "before", "default", "by", "why")
    for change in history:
        default = change.default or "none"
        if change.moves_default and change.previous_default:
            default = f"{change.previous_default} -> {default}"
        revision, before = (change.revision or "removed")[:8], (change.previous or "")[:8]
        table.add(change.at.isoformat()[:19], change.variant, revision, before, default, change.by or "", change.why)
    table.print()


def render_evicted(evicted: Evicted) -> None:
    table = TextTable("", "snapshot", "size", "why")
    for state, rows in (("would go" if evicted.is_dry_run else "removed", evicted.removed), ("kept", evicted.kept)):
        for row in rows:
            table.add(state, row.id.short, human_bytes(row.bytes), row.reason)
    if len(table):
        table.print()
    for note in evicted.notes:
        print_line(note)
    beside = ", ".join(f"{human_bytes(size)} in {name}" for name, size in evicted.beside.items() if size)
    if beside:
        print_line(f"beside the budget: {beside}")
    print_line(evicted.line)


def render_verified(verified: Verified, *, in_s3: bool, repaired: bool) -> None:
    """`repaired`: repairs were tried."""
    table = TextTable("snapshot", "file", "size", "state")
    for file in verified.files:
        if not file.damage:
            continue
        state = file.damage
        if file.ok:
            state += f"; repaired, {human_bytes(file.repaired_bytes)} transferred"
        table.add(file.id.short, file.path, human_bytes(file.size_bytes), state)
    if len(table):
        table.print()
    for problem in verified.problems:
        print_line(problem)
    damaged = {file.id for file in verified.files if not file.ok} | set(verified.unreadable)
    read = f"{counted(len(verified.files), 'file')} of {verified.where}"
    done = f"{human_bytes(verified.read_bytes)} read in {human_time(verified.seconds)}"
    print_line(f"{read}: {done}, {counted(len(damaged), 'snapshot')} damaged")
    for id in sorted(damaged) if not repaired else ():
        cure = f"`paddock verify {id} --s3 --repair`" if in_s3 else f"`paddock verify {id} --repair`"
        print_line(f"{cure} repairs it")


def render_benchmark(measured: Benchmark) -> None:
    table = TextTable("test", "median", "spread")
    for row in measured.rows():
        table.add(*row)
    table.print()
    tuned = ", with tuned parameters" if measured.tuned else ""
    print_line(f"{measured.machine.cpu}, {measured.machine.cores} cores, {measured.engine}{tuned}")


def render_quality(quality: Quality) -> None:
    kl = quality.kl_divergence
    table = TextTable("figure", "value", "95 % interval")
    for name, figure, digits in (
        ("perplexity", quality.perplexity, 3),
        ("perplexity of the reference", quality.reference_perplexity, 3),
        ("same most likely token", quality.top1_agreement, 4),
    ):
        table.add(name, f"{figure.value:.{digits}f}", f"{figure.low:.{digits}f} to {figure.high:.{digits}f}")
    table.add("KL divergence, mean", f"{kl.mean:.5f}", f"{kl.ci95[0]:.5f} to {kl.ci95[1]:.5f}")
    for name, value in (("median", kl.median), ("99 %", kl.p99), ("99.9 %", kl.p999), ("maximum", kl.max)):
        table.add(f"KL divergence, {name}", f"{value:.5f}", "")
    if quality.answers:
        answers = quality.answers
        weights = "same weights" if answers.same_tensors else ""
        table.add("equal greedy answers", f"{answers.equal} of {answers.asked}", weights)
    for name, roleplay in (("", quality.roleplay), (" of the reference", quality.reference_roleplay)):
        if roleplay:
            table.add(
                f"roleplay score{name}",
                f"{roleplay.score:.2f}",
                f"{roleplay.whole.kept} of {roleplay.whole.asked}",
            )
    table.print()
    if len(quality.texts) > 1:
        texts = TextTable("text", "tokens", "perplexity", "KL divergence", "same token")
        for text in quality.texts:
            figures = (f"{text.perplexity:.2f}", f"{text.kl_mean:.5f}", f"{text.top1:.4f}")
            texts.add(text.name, str(text.tokens), *figures)
        texts.print()
    print_line(
        f"{quality.model} against {quality.reference}: {quality.predicted} of {quality.tokens} tokens predicted,"
        f" {quality.seconds:.0f} s, {quality.engine}"
    )


def render_tuning(tuning: Tuning) -> None:
    table = TextTable("settings", "prefill and decode", "outcome")
    for row in tuning.rows():
        table.add(*row)
    table.print()
    print_line(f"tuned in {tuning.seconds:.0f} s with requests of {tuning.n_prompt} and {tuning.n_gen} tokens")
    if tuning.busy:
        print_line(f"the machine was busy ({tuning.load:.1f} processes): tune again when it is quiet")


def render_serving(serving: Serving) -> None:
    spec, parameters = serving.spec, serving.spec.parameters
    context_tokens = parameters.n_ctx // parameters.n_seq_max
    server = f"llama-server {serving.address.server_version}"
    print_line(f"{spec.name}:{spec.variant}@{spec.revision[:8]} by {server}, {serving.processor}")
    print_line(
        f"{context_tokens} tokens of context for each of {counted(parameters.n_seq_max, 'request')} at once; "
        f"{human_bytes(spec.memory.total_bytes)} of memory planned; loaded in {serving.address.load_s:.1f} s"
    )
    print_line(
        f"serving at {serving.address.url}/v1{', with an API key' if serving.needs_key else ''}; Ctrl-C stops it"
    )
