"""Render the results of commands for people, as tables and lines on stdout. Scripts read the JSON instead.

Names, licences, reasons and findings are untrusted text. It is printed through `one_line` and `_cell` alone, so that it
is neither read as markup nor able to control the terminal. Progress is `paddock.cli.progress`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from paddock.cli.logs import print_stderr
from paddock.model.units import counted, human_bytes, human_time
from paddock.plain_text import one_line
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


def _out() -> Console:
    """The console of stdout. Lines are not wrapped unless it is a terminal, since a program reads them."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000, soft_wrap=True)


def _cell(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style)


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(_cell, cells))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Sequence[str] = ()) -> None:
    """A table whose cells are wrapped where the terminal is narrow, and never cut: a name can be typed back.
    `styles` are those of the first cells."""
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None)
    for number, (first, *others) in enumerate(rows):
        table.add_row(_cell(first, styles[number] if styles else ""), *map(_cell, others))
    _out().print(table)


def print_line(line: str) -> None:
    _out().print(_cell(line))


def print_progress(line: str) -> None:
    """Print a line on stderr about a step that is done."""
    print_stderr(line, line)


def print_error(error: str, message: str, cure: str) -> None:
    """Print an error as one sentence on stderr. Where stderr is closed, the exit status is all that is left."""
    text = f"paddock: {message}{f': {cure}' if cure else ''}"
    print_stderr(text, message, level=logging.ERROR, error=error, cure=cure)


def render_pull(pulled: Pulled) -> None:
    render_restoration(pulled)
    for note in pulled.notes:
        print_line(note)
    render_pruned(pulled.pruned)


def render_pruned(pruned: Pruned) -> None:
    if pruned.removed:
        print_line(pruned.line)


def render_restoration(result: Pulled | Restored) -> None:
    table = Table("file", "size", "from", "sha256", box=None)
    for item in result.acquired:
        _row(table, item.file.path, human_bytes(item.file.size), item.origin, item.file.sha256[:16])
    _out().print(table)
    for evicted in result.published.evicted:
        print_line(evicted.line)
    state = "promoted" if result.promoted else "not promoted"
    manifest = result.manifest
    print_line(
        f"{manifest.id.short} at {result.path}: {state}; "
        f"{human_bytes(result.transferred_bytes)} fetched in {result.seconds:.1f} s"
    )


def render_inspection(inspection: Inspection) -> None:
    out = _out()
    audit = inspection.audit
    if audit.model is not None:
        table = Table("", "", box=None, show_header=False)
        for name, value in asdict(audit.model).items():
            shown = human_bytes(value) if name == "size_bytes" and isinstance(value, int) else str(value)
            _row(table, name, shown)
        out.print(table)
    for finding in audit.findings:
        where = f" ({finding.where})" if finding.where else ""
        cure = f": {finding.cure}" if finding.cure else ""
        out.print(
            _cell(finding.severity, _COLOURS[finding.severity])
            + _cell(f" {finding.rule}{where}: {finding.message}{cure}")
        )
    cost = f"{human_bytes(inspection.bytes_read)} read in {inspection.seconds:.2f} s"
    out.print(_cell(audit.verdict, _COLOURS[audit.verdict]) + _cell(f" {inspection.name}: {cost}"))


def render_preflight(result: Preflight) -> None:
    out = _out()
    table = Table("variant", "quantization", "file", "size", "memory", "fits", "why", box=None)
    for candidate in result.candidates:
        cells = (
            candidate.variant,
            candidate.quantization or "",
            candidate.file,
            human_bytes(candidate.size_bytes),
            human_bytes(candidate.total_bytes),
        )
        _row(table, *cells, "yes" if candidate.fits else "no", candidate.reason)
    out.print(table)
    for file, reason in result.passed_over:
        out.print(_cell(f"passed over: {file}: {reason}"))
    plan = result.plan
    for name, size in plan.memory.parts():
        out.print(_cell(f"{name}: {human_bytes(size)}"))
    shown_parameters = {name: value for name, value in plan.parameters.to_json().items() if name in _SHOWN_PARAMETERS}
    out.print(_cell(", ".join(f"{name} {value}" for name, value in shown_parameters.items())))
    for line in plan.given_up:
        out.print(_cell(line))
    verdict = "fits" if plan.fits else "does not fit"
    cost = f"{human_bytes(result.bytes_read)} read in {result.seconds:.2f} s"
    out.print(_cell(verdict, "green" if plan.fits else "red") + _cell(f" {result.variant} of {result.name}: {cost}"))
    if result.advice:
        out.print(_cell(result.advice))


def print_markdown(text: str) -> None:
    """Print a page of Markdown: formatted on a terminal, else as it is."""
    out = _out()
    page = "\n".join(map(one_line, text.split("\n")))
    if out.is_terminal:
        from rich.markdown import Markdown  # takes a twentieth of a second, and nothing else needs it

        out.print(Markdown(page, hyperlinks=False))
    else:
        out.print(Text(page))


def render_onboarding(result: Onboarded) -> None:
    print_markdown(read_regular(result.dossier, max_bytes=MAX_DOCUMENT_BYTES).decode(errors="replace"))
    print_line(result.line)


def render_entries(rows: Sequence[Mapping[str, Any]], apparent: int, real: int, *, where: str = "on the disk") -> None:
    table = Table(
        "model", "variant", "revision", "quantization", "size", "promoted", "last used", "uses", "pinned", box=None
    )
    for row in rows:
        _row(
            table,
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
    _out().print(table)
    print_line(f"{counted(len(rows), 'snapshot')}, {human_bytes(apparent)}; {human_bytes(real)} {where}")


def render_manifest(manifest: Manifest, *, promoted: Promoted, chat: ChatFormat) -> None:
    table = Table("", "", box=None, show_header=False)
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
        _row(table, name, value)
    _out().print(table)
    files = Table("file", "size", "sha256", box=None)
    for file in manifest.files:
        _row(files, file.path, human_bytes(file.size), file.sha256)
    _out().print(files)


def render_history(history: Sequence[Promotion]) -> None:
    table = Table("when", "variant", "revision", "before", "default", "by", "why", box=None)
    for change in history:
        default = change.default or "none"
        if change.moves_default and change.previous_default:
            default = f"{change.previous_default} -> {default}"
        revision, before = (change.revision or "removed")[:8], (change.previous or "")[:8]
        _row(table, change.at.isoformat()[:19], change.variant, revision, before, default, change.by or "", change.why)
    _out().print(table)


def render_evicted(evicted: Evicted) -> None:
    table = Table("", "snapshot", "size", "why", box=None)
    for state, rows in (("would go" if evicted.is_dry_run else "removed", evicted.removed), ("kept", evicted.kept)):
        for row in rows:
            _row(table, state, row.id.short, human_bytes(row.bytes), row.reason)
    if table.row_count:
        _out().print(table)
    for note in evicted.notes:
        print_line(note)
    beside = ", ".join(f"{human_bytes(size)} in {name}" for name, size in evicted.beside.items() if size)
    if beside:
        print_line(f"beside the budget: {beside}")
    print_line(evicted.line)


def render_verified(verified: Verified, *, in_s3: bool, repaired: bool) -> None:
    """`repaired`: repairs were tried."""
    table = Table("snapshot", "file", "size", "state", box=None)
    for file in verified.files:
        if not file.damage:
            continue
        state = file.damage
        if file.ok:
            state += f"; repaired, {human_bytes(file.repaired_bytes)} transferred"
        _row(table, file.id.short, file.path, human_bytes(file.size_bytes), state)
    if table.row_count:
        _out().print(table)
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
    table = Table("test", "median", "spread", box=None)
    for row in measured.rows():
        _row(table, *row)
    _out().print(table)
    tuned = ", with tuned parameters" if measured.tuned else ""
    print_line(f"{measured.machine.cpu}, {measured.machine.cores} cores, {measured.engine}{tuned}")


def render_quality(quality: Quality) -> None:
    kl = quality.kl_divergence
    table = Table("figure", "value", "95 % interval", box=None)
    for name, figure, digits in (
        ("perplexity", quality.perplexity, 3),
        ("perplexity of the reference", quality.reference_perplexity, 3),
        ("same most likely token", quality.top1_agreement, 4),
    ):
        _row(table, name, f"{figure.value:.{digits}f}", f"{figure.low:.{digits}f} to {figure.high:.{digits}f}")
    _row(table, "KL divergence, mean", f"{kl.mean:.5f}", f"{kl.ci95[0]:.5f} to {kl.ci95[1]:.5f}")
    for name, value in (("median", kl.median), ("99 %", kl.p99), ("99.9 %", kl.p999), ("maximum", kl.max)):
        _row(table, f"KL divergence, {name}", f"{value:.5f}", "")
    if quality.answers:
        answers = quality.answers
        weights = "same weights" if answers.same_tensors else ""
        _row(table, "equal greedy answers", f"{answers.equal} of {answers.asked}", weights)
    for name, roleplay in (("", quality.roleplay), (" of the reference", quality.reference_roleplay)):
        if roleplay:
            _row(
                table,
                f"roleplay score{name}",
                f"{roleplay.score:.2f}",
                f"{roleplay.whole.kept} of {roleplay.whole.asked}",
            )
    _out().print(table)
    if len(quality.texts) > 1:
        texts = Table("text", "tokens", "perplexity", "KL divergence", "same token", box=None)
        for text in quality.texts:
            figures = (f"{text.perplexity:.2f}", f"{text.kl_mean:.5f}", f"{text.top1:.4f}")
            _row(texts, text.name, str(text.tokens), *figures)
        _out().print(texts)
    print_line(
        f"{quality.model} against {quality.reference}: {quality.predicted} of {quality.tokens} tokens predicted,"
        f" {quality.seconds:.0f} s, {quality.engine}"
    )


def render_tuning(tuning: Tuning) -> None:
    table = Table("settings", "prefill and decode", "outcome", box=None)
    for row in tuning.rows():
        _row(table, *row)
    _out().print(table)
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
