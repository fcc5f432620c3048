"""Write the Data Docs of a snapshot: HTML pages about its files, tensors and metadata, from great-expectations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from paddock.errors import PaddockError
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.audit import shards_of
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.gate_reports import read_gates
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Listing, Manifest
from paddock.model.finding import Finding
from paddock.store.volume import Volume
from paddock.validation import tables
from paddock.validation.expectations import CheckedTable, check_tables
from paddock.validation.site import ASSETS_DIRECTORY, rewrite_pages
from paddock.validation.tables import GateTableRow, StoredFileRow, Table

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataDocs:
    """The checked tables, and where their Data Docs are: a URL, or a path where PADDOCK_DOCS_URL is not set."""

    tables: tuple[CheckedTable, ...]
    location: str

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for table in self.tables for finding in table.findings)


@step(Kind.LOCAL, "expectations")
def write_data_docs(clients: Clients, manifest: Manifest) -> DataDocs:
    """Check expectations on the tables of an audited snapshot, and write its Data Docs.

    The files are compared with the Hub's list of them. Where the Hub does not answer, they are not, and the pages say
    so.
    """
    unchecked = list(_tables(clients, manifest))
    volume = clients.volume
    what = f"{manifest.model.slug}-{manifest.revision[:8]}-{manifest.variant}"
    with volume.docs.replace(manifest.id) as docs:
        checked = check_tables(unchecked, what=what, docs=docs)
        rewrite_pages(
            docs,
            checked,
            title=f"{manifest.id.name} at {manifest.revision}",
            assets=clients.settings.cache / "paddock" / ASSETS_DIRECTORY,
            shared=volume.docs.make_assets(),
        )
    return DataDocs(checked, _location(clients, manifest))


def _tables(clients: Clients, manifest: Manifest) -> Iterator[Table]:
    yield tables.files(manifest, _listing(clients, manifest))
    snapshot = clients.volume.snapshot_path(manifest.id)
    with ExitStack() as stack:
        headers = {name: read_header(stack.enter_context(FileSource(snapshot / name))) for name in shards_of(snapshot)}
    yield tables.tensors(headers)
    yield tables.metadata(headers)
    yield tables.inventory(list(_stored(clients.volume)))
    report = read_gates(clients, manifest)
    if report is not None and report.gates:
        against = f"against {report.promoted}" if report.promoted else "alone, since nothing was promoted"
        yield tables.gates(list(_gate_rows(report)), against=against)


def _gate_rows(report: GateReport) -> Iterator[GateTableRow]:
    limits = {limit.gate: limit for limit in report.limits}
    for gate in report.gates:
        if not gate.name.isidentifier():  # a report that somebody else wrote
            continue
        outcome = tables.FAILED if gate.passed is False else "passed" if gate.passed else "not decided"
        row = GateTableRow(gate.name, gate.bound, outcome)
        limit = limits.get(gate.name)
        yield replace(row, figure=limit.figure, least=limit.least, most=limit.most) if limit else row


def _listing(clients: Clients, manifest: Manifest) -> Listing | None:
    try:
        return clients.hub.listing(manifest.model, manifest.revision)
    except PaddockError as error:  # offline, gated or gone: the snapshot is checked all the same
        _LOG.warning("the files of %s are not compared with the Hub's list: %s", manifest.id.short, error.message)
        return None


def _stored(volume: Volume) -> Iterator[StoredFileRow]:
    for entry in volume.entries():
        manifest = entry.manifest
        snapshot = volume.snapshot_path(manifest.id)
        for file in manifest.files:
            yield StoredFileRow(
                model=manifest.repository,
                revision=manifest.revision,
                variant=manifest.variant,
                path=file.path,
                size=file.size,
                on_disk_bytes=_size(snapshot / file.path),
                sha256=file.sha256,
                promoted=entry.promoted,
            )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _location(clients: Clients, manifest: Manifest) -> str:
    page = f"{manifest.model.slug}/{manifest.revision}/{manifest.variant}/index.html"
    base = clients.settings.docs_url
    return f"{base}/{quote(page)}" if base else str(clients.volume.docs.path / page)
