"""Create the Prefect artifacts of Paddock's runs.

A key is `<kind>-<slug>-<8 hex>` (`tasks.subject`). It stays the same from run to run, so that the UI shows the history
of each artifact. `tasks.recorders` maps steps to artifacts; those of a volume are in `tasks.volume_artifacts`. Sizes
are formatted for people. No value that is recorded holds a secret: addresses with credentials and tokens are not among
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from paddock.lifecycle.acquire.plan import AcquisitionPlan
from paddock.lifecycle.assess.chat_template import ChatTemplateCheck
from paddock.lifecycle.assess.data_docs import DataDocs
from paddock.lifecycle.assess.preflight import Preflight
from paddock.lifecycle.dossier import Dossier
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.run.pictures import KeptPicture
from paddock.lifecycle.run.serve import Serving
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.tuning import Tuning
from paddock.model.acquired import Acquired
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Verdict
from paddock.model.markdown import as_text, code, table, verbatim
from paddock.model.units import counted, human_bytes, human_time
from paddock.store.copying import CopyResult
from paddock.store.history import Promotion
from paddock.transfer.progress import Progress, ProgressListener, TotalProgress
from tasks import pictures
from tasks.escaped_artifacts import create_page, create_progress, create_table, update_progress
from tasks.run_log import run_logger
from tasks.subject import ArtifactSubject

_UPDATE_INTERVAL_S = 1.0
_LOG_INTERVAL_S = 60.0


def files(subject: ArtifactSubject, plan: AcquisitionPlan) -> None:
    """Table of the files to fetch, with their origins, of the variants that were not chosen, with the reasons, and of
    the snapshots that were evicted to make room."""
    rows: list[dict[str, Any]] = [
        {
            "file": row.file.path,
            "size": human_bytes(row.file.size),
            "from": row.origin,
            "why": "chosen" if row.file.path in plan.choice.model_files else "describes the model",
        }
        for row in plan.files
    ]
    rows += [
        {
            "file": candidate.file,
            "size": human_bytes(candidate.size_bytes),
            "from": "not fetched",
            "why": candidate.reason,
        }
        for candidate in plan.choice.candidates
        if not candidate.chosen
    ]
    rows += _evicted_rows(plan.evicted, "why")
    create_table(
        key=subject.key("files"),
        rows=rows,
        description=f"{human_bytes(plan.fetch_bytes)} to fetch of {human_bytes(plan.choice.size_bytes)}:"
        f" {plan.id.short}",
    )


def _evicted_rows(evicted: Sequence[EvictionRow], reason_column: str) -> list[dict[str, Any]]:
    return [
        {
            "file": row.id.short,
            "size": human_bytes(row.bytes),
            "from": "evicted",
            reason_column: row.reason,
        }
        for row in evicted
    ]


class DownloadArtifact(ProgressListener):
    """A progress artifact for all files of a snapshot, updated at most once a second. Each minute it is logged too."""

    def __init__(self, subject: ArtifactSubject) -> None:
        self._subject = subject
        self._total = TotalProgress(0)
        self._began = self._last = self._logged = time.monotonic()
        self.seconds = 0.0

    def on_start(self, total_bytes: int) -> None:
        self._total = TotalProgress(total_bytes)
        self._began = self._last = self._logged = time.monotonic()
        self._id = create_progress(
            key=self._subject.key("download"),
            description=f"{self._subject.name}: 0 B of {human_bytes(total_bytes)}",
        )

    def on_progress(self, progress: Progress) -> None:
        self._total.update(progress)
        if time.monotonic() - self._last < _UPDATE_INTERVAL_S:
            return
        self._last = time.monotonic()
        done, total, left_s = self._total.done_bytes, self._total.total_bytes, self._total.left_s
        rate = human_bytes(round(self._total.rate_bytes_per_s))
        left = "" if left_s is None else f", {human_time(left_s)} left"
        line = f"{human_bytes(done)} of {human_bytes(total)} at {rate}/s{left}"
        self._write(100.0 * done / max(total, 1), line)
        if self._last - self._logged >= _LOG_INTERVAL_S:
            self._logged = self._last
            run_logger().info("fetching %s: %s", self._subject.name, line)

    def on_finish(self, acquired: Sequence[Acquired]) -> None:
        self.seconds = time.monotonic() - self._began
        sources: dict[str, int] = dict.fromkeys(("hub", "s3", "volume"), 0)
        for item in acquired:
            sources[item.origin] += item.file.size
        fetched = sum(item.transferred_bytes for item in acquired)
        parts = ", ".join(f"{human_bytes(size)} from {origin}" for origin, size in sources.items() if size)
        self._write(100.0, f"{human_bytes(fetched)} fetched{_rate(fetched, self.seconds)}: {parts}")

    def _write(self, percent: float, description: str) -> None:
        update_progress(self._id, percent, description)


def findings(subject: ArtifactSubject, verdict: Verdict, found: Sequence[Finding]) -> None:
    """Table of the findings of the checks."""
    rows = [finding.to_json() for finding in found] or [
        {"rule": "all", "severity": "info", "message": "every check passed", "where": "", "cure": ""}
    ]
    create_table(
        key=subject.key("findings"),
        rows=rows,
        description=f"{verdict}, {counted(len(found), 'finding')}: {subject.name}",
    )


def chat(subject: ArtifactSubject, check: ChatTemplateCheck) -> None:
    """The chat template, its origin, the findings on it, and the rendered sample conversations, as Markdown."""
    template = check.chat
    if template is None:  # nobody chats with such a model
        return
    found = [*check.audited, *check.findings]
    lines = [
        f"The chat template of {as_text(subject.name)} is from {as_text(template.origin)}: {as_text(template.why)}.",
        "",
        f"sha256 `{template.sha256}`; an answer ends at {' or '.join(map(code, template.stop)) or 'its end token'}.",
        "",
        *(f"- **{finding.severity}** {finding.rule}: {as_text(finding.message)}" for finding in found),
        *([] if found else ["The audit has no findings."]),
    ]
    for name, text in [*check.samples.items(), ("The template", template.template)]:
        lines += ["", f"### {name[0].upper()}{name[1:]}", "", verbatim(text)]
    create_page(
        key=subject.key("chat"),
        markdown="\n".join(lines),
        description=f"template from {template.origin}: {subject.name}",
    )


def expectations(subject: ArtifactSubject, docs: DataDocs) -> None:
    """The results of the expectations on the model's tables, and the link to its Data Docs, as Markdown."""
    location = docs.location
    link = f"[{location}]({location})" if "://" in location else code(location)
    met_in = {one.table.name: len(one.table.expectations) - len(one.failed) for one in docs.tables}
    lines = [
        f"The Data Docs of {as_text(subject.name)}: {link}",
        "",
        "| table | rows | expectations met | failed |",
        "|---|---|---|---|",
    ]
    for checked in docs.tables:
        table, descriptions = checked.table, [expectation.description for expectation in checked.failed]
        failed = as_text("; ".join(descriptions) or "none")
        met = f"{met_in[table.name]} of {len(table.expectations)}"
        lines.append(f"| {table.name} | {len(table.rows)} | {met} | {failed} |")
    create_page(
        key=subject.key("expectations"),
        markdown="\n".join(lines),
        description=f"{sum(met_in.values())} of {sum(len(one.table.expectations) for one in docs.tables)}"
        f" expectations met: {subject.name}",
    )


def preflight(subject: ArtifactSubject, result: Preflight) -> None:
    """Table of the memory of each variant, and of the one that is chosen."""
    verdict, advice = ("fits", "") if result.plan.fits else ("does not fit", f": {result.advice}")
    create_table(
        key=subject.key("preflight"),
        rows=[
            {
                "variant": candidate.variant,
                "size": human_bytes(candidate.size_bytes),
                "memory": human_bytes(candidate.total_bytes),
                "fits": "yes" if candidate.fits else "no",
                "why": candidate.reason,
            }
            for candidate in result.candidates
        ]
        + [
            {
                "variant": file,
                "size": "",
                "memory": "",
                "fits": "no",
                "why": f"passed over: {reason}",
            }
            for file, reason in result.passed_over
        ],
        description=f"{result.variant} {verdict} with {result.plan.context_tokens} tokens of context, {subject.name}"
        f"{advice}",
    )


def memory(subject: ArtifactSubject, result: Preflight) -> None:
    """Table of the memory that the engine allocates for the model, and of the planned parameters."""
    plan = result.plan
    rows: list[dict[str, Any]] = [
        {"part": part, "bytes": size, "size": human_bytes(size)} for part, size in plan.memory.parts()
    ]
    parameters = plan.parameters.to_json()
    rows += [{"part": name, "bytes": None, "size": text} for name in parameters if (text := _shown(parameters[name]))]
    given_up = "".join(f"; {line}" for line in plan.given_up)
    create_table(
        key=subject.key("memory"),
        rows=rows,
        description=f"{human_bytes(plan.memory.total_bytes)} with {plan.context_tokens} tokens of context, as the"
        f" {plan.memory.source} says: {subject.name}{given_up}",
    )


def _shown(value: object) -> str:
    """A parameter of the engine as people write it; empty for one that is not set."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def copy(subject: ArtifactSubject, copied: CopyResult | None) -> None:
    """Table of the files that were sent to S3, with the rate, and of those that S3 had."""
    rows: list[dict[str, Any]] = [
        {
            "file": file.path,
            "size": human_bytes(file.size),
            "from": "the volume" if sent_bytes else "there already",
            "sent": human_bytes(sent_bytes),
        }
        for file, sent_bytes in (copied.files if copied else ())
    ]
    summary = "not copied: no S3 is set"
    if copied:
        sent = f"{human_bytes(copied.bytes_transferred)} sent to {copied.where}"
        existing = f"{copied.already} of {copied.already + copied.blobs} blobs were there already"
        summary = f"{sent}{_rate(copied.bytes_transferred, copied.seconds)}; {existing}"
    create_table(key=subject.key("copy"), rows=rows, description=f"{summary}: {subject.name}")


def restoration(
    subject: ArtifactSubject, acquired: Sequence[Acquired], evicted: Sequence[EvictionRow] = (), *, seconds: float
) -> None:
    """Table of the files that were fetched from S3, with the rate, of those that the volume had, and of the snapshots
    that were evicted to make room."""
    rows: list[dict[str, Any]] = [
        {
            "file": item.file.path,
            "size": human_bytes(item.file.size),
            "from": "there already" if item.origin == "volume" else item.origin,
            "fetched": human_bytes(item.transferred_bytes),
        }
        for item in acquired
    ]
    rows += _evicted_rows(evicted, "fetched")
    fetched = sum(item.transferred_bytes for item in acquired)
    existing = sum(item.origin == "volume" for item in acquired)
    create_table(
        key=subject.key("restoration"),
        rows=rows,
        description=f"{human_bytes(fetched)} fetched from S3{_rate(fetched, seconds)};"
        f" {existing} of {len(acquired)} files were there already: {subject.name}",
    )


def _rate(moved_bytes: int, seconds: float) -> str:
    """Such as ` in 4 s, 25.0 MiB/s`; empty for 0 bytes."""
    if not moved_bytes or seconds <= 0:
        return ""
    return f" in {human_time(seconds)}, {human_bytes(round(moved_bytes / seconds))}/s"


def promotion(subject: ArtifactSubject, manifest: Manifest, change: Promotion) -> None:
    """Table of the promoted revision and the default, now and before."""
    rows: list[dict[str, Any]] = [
        {"what": manifest.variant, "promoted": _short(change.revision), "before": _short(change.previous) or "nothing"},
        {"what": "default", "promoted": change.default or "none", "before": change.previous_default or "none"},
    ]
    create_table(
        key=subject.key("promotion"),
        rows=rows,
        description=f"promoted {manifest.id.short}: {change.why}",
    )


def _short(revision: str | None) -> str:
    return (revision or "")[:8]


def benchmark(subject: ArtifactSubject, measured: Benchmark, drawn: Sequence[KeptPicture] = ()) -> None:
    """Table of speeds, time to first token and memory, and the pictures of them, as Markdown."""
    rows = [tuple(map(as_text, row)) for row in measured.rows()]
    lines = [table(("test", "median", "spread"), rows), *pictures.embedded(drawn, pictures.OF_BENCHMARK)]
    create_page(
        key=subject.key("benchmark"),
        markdown="\n\n".join(lines),
        description=f"{measured.speeds}: {subject.name} on {measured.processor}, {measured.engine}",
    )


def serving(subject: ArtifactSubject, served: Serving) -> None:
    """Table of the address, server and parameters of a model that is being served."""
    parameters = served.spec.parameters
    rows: list[dict[str, Any]] = [
        {"what": "address", "value": f"{served.address.url}/v1"},
        {"what": "server", "value": f"llama-server {served.address.server_version}"},
        {"what": "computed by", "value": served.processor},
        {"what": "revision", "value": served.spec.revision},
        {"what": "quantization", "value": served.spec.quantization or ""},
        {"what": "context of each request", "value": f"{parameters.n_ctx // parameters.n_seq_max} tokens"},
        {"what": "requests at once", "value": str(parameters.n_seq_max)},
        {"what": "memory planned", "value": human_bytes(served.spec.memory.total_bytes)},
        {"what": "API key", "value": "needed" if served.needs_key else "none"},
    ]
    create_table(
        key=subject.key("serving"), rows=rows, description=f"served at {served.address.url}/v1: {subject.name}"
    )


def serving_ended(subject: ArtifactSubject, served: Serving, reason: str) -> None:
    """Table in the place of that of a model that is served: when and why that ended."""
    rows: list[dict[str, Any]] = [
        {"what": "address", "value": f"{served.address.url}/v1, until now"},
        {"what": "ended", "value": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"},
        {"what": "reason", "value": reason},
        {"what": "revision", "value": served.spec.revision},
    ]
    create_table(
        key=subject.key("serving"),
        rows=rows,
        description=f"{subject.name} is not served by this run any more: {reason}",
    )


def tuning(subject: ArtifactSubject, result: Tuning) -> None:
    """Table of the settings that were compared with the plan's own, and of the outcomes."""
    rows: list[dict[str, Any]] = [
        {"settings": settings, "speed": speed, "outcome": outcome} for settings, speed, outcome in result.rows()
    ]
    create_table(
        key=subject.key("tuning"),
        rows=rows,
        description=f"{result.gain:.2f} times as fast as planned"
        f"{', not reliable: the machine was busy' if result.busy else ''}: {subject.name},"
        f" llama-cpp-python {result.engine}",
    )


def dossier(subject: ArtifactSubject, written: Dossier, drawn: Sequence[KeptPicture] = ()) -> None:
    """The dossier of the snapshot, as Markdown, with its pictures in it."""
    state = "promoted" if written.document.promoted else "not promoted"
    create_page(
        key=subject.key("dossier"),
        markdown=pictures.with_files_embedded(written.markdown, drawn),
        description=f"{state}: all that is known of {subject.name}",
    )
