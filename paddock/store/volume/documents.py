"""Documents on the volume: reports, notes, tuning records, and the pages of the Data Docs.

A document is replaced as a whole, never appended to. The format of each is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.store import durable
from paddock.store.durable import disk_errors, disk_errors_in
from paddock.store.manifests import MAX_DOCUMENT_BYTES, check_report_name, document_text, report_names
from paddock.store.volume.layout import Layout
from paddock.untrusted.content import UnusableContent

log = logging.getLogger(__name__)


class Reports:
    """Reports on a snapshot: `.paddock/reports/org--name/<revision>/<variant>/<name>`."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def write(self, id: SnapshotId, name: str, content: str | bytes) -> str:
        """Replace a report, and return its path. `name` is one file name."""
        return _write(self._layout, self._layout.report(id, check_report_name(name)), content)

    @disk_errors
    def read(self, id: SnapshotId, name: str) -> str | None:
        return _read(self._layout, self._layout.report(id, check_report_name(name)))

    @disk_errors
    def names(self, id: SnapshotId) -> list[str]:
        """The names of all reports, sorted. What has no safe name is none."""
        found = self._layout.names(self._layout.reports(id))
        return report_names(name for name in found if not name.startswith(durable.STAGING_PREFIX))

    @disk_errors
    def remove(self, id: SnapshotId, name: str) -> None:
        """Remove a report. Does nothing when there is none of that name."""
        path = self._layout.report(id, check_report_name(name))
        with suppress(FileNotFoundError):
            self._layout.check_directory(path.parent)
            path.unlink()


class Notes:
    """Texts that belong to no model: `.paddock/reports/<folder>/<file>`. A `name` is `<folder>/<file>`, both chosen by
    Paddock."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def write(self, name: str, text: str) -> str:
        """Replace a note, and return its path."""
        return _write(self._layout, self._layout.note(name), text)

    @disk_errors
    def read(self, name: str) -> str | None:
        return _read(self._layout, self._layout.note(name))


class TuningRecords:
    """Results of tuning a model, by the sha256 of its (first) blob: `.paddock/tuning/<sha256>/<name>`."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def write(self, sha256: Sha256, name: str, text: str) -> str:
        """Replace a record, and return its path. `name` is one file name."""
        return _write(self._layout, self._layout.tuning(sha256, check_report_name(name)), text)

    @disk_errors
    def read(self, sha256: Sha256, name: str) -> str | None:
        return _read(self._layout, self._layout.tuning(sha256, check_report_name(name)))


class DocsPages:
    """The Data Docs of all snapshots: `.paddock/docs/org--name/<revision>/<variant>/index.html`, and `assets/`, which
    their pages share."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @property
    def path(self) -> Path:
        return self._layout.docs

    @disk_errors
    def make_assets(self) -> Path:
        """Make the directory of the files that all pages share, and return it."""
        return self._layout.make_directory(self._layout.docs / "assets")

    @contextmanager
    def replace(self, id: SnapshotId) -> Iterator[Path]:
        """Yield an empty directory, which replaces the pages of a snapshot when the block ends without an error."""
        final = self._layout.data_docs(id)
        with disk_errors_in(self.root):
            parent = self._layout.make_directory(final.parent)
            durable.sweep(parent)
            with durable.staged_directory(parent) as staged:
                yield staged
                durable.place_directory(staged, final)


def _write(layout: Layout, path: Path, content: str | bytes) -> str:
    layout.make_directory(path.parent)
    durable.write_atomically(path, content.encode() if isinstance(content, str) else content)
    return str(path)


def _read(layout: Layout, path: Path) -> str | None:
    """The text of a document; None where there is none, or it cannot be used. Its next writer replaces it."""
    try:
        return document_text(layout.read(path, max_bytes=MAX_DOCUMENT_BYTES))
    except FileNotFoundError:
        return None
    except (UnusableContent, NotADirectoryError) as error:
        reason = error.reason if isinstance(error, UnusableContent) else "it lies behind a link, or behind a file"
        log.warning("%s is ignored: %s", path, reason)
        return None
