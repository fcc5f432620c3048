"""What people see of results: tables and single lines, on stdout. Progress is `paddock.cli.progress`.

It prints what it is given and decides nothing; scripts read the JSON instead.

Names, licences, reasons and findings come from outside. None of them is read as markup, and none moves the cursor: they
are shown by `visible` and `_cell` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from paddock.model.units import human_bytes

if TYPE_CHECKING:
    from paddock.chat.template import ChatFormat
    from paddock.lifecycle.acquire.pull import Pulled
    from paddock.lifecycle.acquire.restore import Restored
    from paddock.lifecycle.assess.inspect import Inspection
    from paddock.lifecycle.assess.preflight import Preflight
    from paddock.lifecycle.onboard import Onboarded
    from paddock.lifecycle.promote.retention import Pruned
    from paddock.lifecycle.run.serve import Serving
    from paddock.lifecycle.upkeep.verify import Verified
    from paddock.measure.benchmark import Benchmark
    from paddock.measure.tuning import Tuning
    from paddock.model.artifact import Manifest
    from paddock.store.history import Promoted, Promotion

_TOLD = ("n_ctx", "n_seq_max", "n_gpu_layers", "n_threads", "n_batch", "n_ubatch", "type_k", "type_v", "flash_attn")
_COLOURS = {"accept": "green", "warn": "yellow", "reject": "red", "info": "blue"}


def _out() -> Console:
    """Stdout. Where nobody sees it as a terminal, lines are as long as they are: a program reads them."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000, soft_wrap=True)


def visible(text: str) -> str:
    """The text on one line, with what has no width or controls a terminal written out, such as `\\x1b`."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", errors="surrogatepass").decode() for one in text
    )


def _cell(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(_cell, cells))


def counted(number: int, noun: str) -> str:
    """`1 snapshot`, `2 snapshots`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def say(line: str) -> None:
    _out().print(_cell(line))


def say_progress(line: str) -> None:
    """One line on stderr about a step that is done."""
    with suppress(OSError):
        print(visible(line), file=sys.stderr)  # noqa: T201 progress


def complain(message: str, cure: str) -> None:
    """One sentence on stderr."""
    with suppress(OSError):  # with nobody to tell, the exit status has to say it
        print(visible(f"paddock: {message}{f': {cure}' if cure else ''}"), file=sys.stderr)  # noqa: T201 the last word


def render_pull(pulled: Pulled) -> None:
    render_restoration(pulled)
    for note in pulled.notes:
        say(note)
    say_pruned(pulled.pruned)


def say_pruned(pruned: Pruned) -> None:
    if pruned.removed:
        say(pruned.line)


def render_restoration(done: Pulled | Restored) -> None:
    table = Table("file", "size", "from", "sha256", box=None)
    for one in done.acquired:
        _row(table, one.file.path, human_bytes(one.file.size), one.origin, one.file.sha256[:16])
    _out().print(table)
    state = "promoted" if done.promoted else "not promoted"
    manifest = done.manifest
    say(
        f"{manifest.id.short} at {done.path}: {state}; "
        f"{human_bytes(done.transferred_bytes)} fetched in {done.seconds:.1f} s"
    )


def render_inspection(found: Inspection) -> None:
    out = _out()
    audit = found.audit
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
    cost = f"{human_bytes(found.bytes_read)} read in {found.seconds:.2f} s"
    out.print(_cell(audit.verdict, _COLOURS[audit.verdict]) + _cell(f" {found.name}: {cost}"))


def render_preflight(found: Preflight) -> None:
    out = _out()
    table = Table("variant", "quantization", "file", "size", "memory", "fits", "why", box=None)
    for one in found.candidates:
        shown = (
            one.variant,
            one.quantization or "",
            one.file,
            human_bytes(one.size_bytes),
            human_bytes(one.total_bytes),
        )
        _row(table, *shown, "yes" if one.fits else "no", one.reason)
    out.print(table)
    plan = found.plan
    for name, size in plan.memory.parts():
        out.print(_cell(f"{name}: {human_bytes(size)}"))
    told = {name: value for name, value in plan.parameters.to_json().items() if name in _TOLD}
    out.print(_cell(", ".join(f"{name} {value}" for name, value in told.items())))
    for line in plan.given_up:
        out.print(_cell(line))
    verdict = "fits" if plan.fits else "does not fit"
    cost = f"{human_bytes(found.bytes_read)} read in {found.seconds:.2f} s"
    out.print(_cell(verdict, "green" if plan.fits else "red") + _cell(f" {found.variant} of {found.name}: {cost}"))
    if found.advice:
        out.print(_cell(found.advice))


def render_onboarding(result: Onboarded) -> None:
    out = _out()
    dossier = "\n".join(map(visible, Path(result.dossier).read_text(encoding="utf-8").split("\n")))
    out.print(Markdown(dossier, hyperlinks=False) if out.is_terminal else Text(dossier))
    say(result.line)


def render_entries(rows: Sequence[Mapping[str, Any]], apparent: int, real: int, *, where: str = "on the disk") -> None:
    table = Table("model", "variant", "revision", "quantization", "size", "promoted", "last used", "pinned", box=None)
    for row in rows:
        _row(
            table,
            row["model"],
            row["variant"],
            row["revision"][:8],
            row["quantization"] or "",
            human_bytes(row["size_bytes"]),
            "default" if row["default"] else "yes" if row["promoted"] else "",
            (row["last_used"] or "")[:16],
            "yes" if row["pinned"] else "",
        )
    _out().print(table)
    say(f"{counted(len(rows), 'snapshot')}, {human_bytes(apparent)}; {human_bytes(real)} {where}")


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
        ("an answer ends at", " or ".join(chat.stop) or "the model's end token"),
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
    for one in history:
        default = one.default or "none"
        if one.moves_default and one.previous_default:
            default = f"{one.previous_default} -> {default}"
        revision, before = (one.revision or "removed")[:8], (one.previous or "")[:8]
        _row(table, one.at.isoformat()[:19], one.variant, revision, before, default, one.by or "", one.reason)
    _out().print(table)


def render_verified(verified: Verified) -> None:
    table = Table("snapshot", "file", "size", "state", box=None)
    for one in verified.files:
        state = "whole" if one.ok else "damaged"
        if one.bad_segments:
            state += f" in segment {', '.join(map(str, one.bad_segments[:8]))} (from 0)"
        if one.repaired_bytes:
            state = f"repaired, {human_bytes(one.repaired_bytes)} fetched"
        if not one.ok or one.repaired_bytes:
            _row(table, one.id.short, one.path, human_bytes(one.size_bytes), state)
    if table.row_count:
        _out().print(table)
    for problem in verified.problems:
        say(problem)
    damaged = {one.id for one in verified.files if not one.ok}
    say(f"{counted(len(verified.files), 'file')} read, {counted(len(damaged), 'snapshot')} damaged")
    for id in sorted(damaged):
        say(f"`paddock pull {id}` or `paddock verify {id} --repair` fetches what is damaged")


def render_benchmark(measured: Benchmark) -> None:
    table = Table("test", "median", "spread", box=None)
    for row in measured.rows():
        _row(table, *row)
    _out().print(table)
    tuned = ", with tuned parameters" if measured.tuned else ""
    say(f"{measured.machine.cpu}, {measured.machine.cores} cores, {measured.engine}{tuned}")


def render_tuning(tuning: Tuning) -> None:
    table = Table("settings", "prefill and decode", "outcome", box=None)
    for row in tuning.rows():
        _row(table, *row)
    _out().print(table)
    say(f"tuned in {tuning.seconds:.0f} s with requests of {tuning.n_prompt} and {tuning.n_gen} tokens")
    if tuning.busy:
        say(f"the machine was busy ({tuning.load:.1f} processes): tune again when it is quiet")


def render_serving(serving: Serving) -> None:
    offer, parameters = serving.offer, serving.offer.parameters
    each = parameters.n_ctx // parameters.n_seq_max
    say(f"{offer.name}:{offer.variant}@{offer.revision[:8]} by {serving.address.server}, {serving.processor}")
    say(
        f"{each} tokens of context for each of {counted(parameters.n_seq_max, 'request')} at once; "
        f"{human_bytes(offer.memory.total_bytes)} of memory planned; loaded in {serving.address.load_s:.1f} s"
    )
    say(f"serving at {serving.address.url}/v1{', with an API key' if serving.needs_key else ''}; Ctrl-C ends it")
