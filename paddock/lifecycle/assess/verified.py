"""Open a snapshot for use: compare its files with its manifest, and the manifest with the record of its publication.

Where there is no such record, a manifest could name files that nobody audited. Then all files are hashed and audited as
before a publication, and the manifest is recorded after that. So a volume of an earlier version of Paddock can be used,
and whoever removes the record gains nothing by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from paddock.chat.audit import audit_template
from paddock.chat.template import TEMPLATE_FILE, chat_format_for_template
from paddock.gguf.directory import get_gguf_file_path, local_kind
from paddock.gguf.kind import ModelKind
from paddock.gguf.source import FileSource
from paddock.lifecycle.assess.audit import audit_paths, require_accepted
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, verdict_of
from paddock.model.quantization import group_shards
from paddock.store.open_snapshot import OpenSnapshot, open_stored
from paddock.validation.audit import check_projector

_LOG = logging.getLogger(__name__)


@contextmanager
def open_snapshot(clients: Clients, manifest: Manifest, *, at_end: bool = True) -> Iterator[OpenSnapshot]:
    """As `open_stored`. Files whose publication is not recorded are audited first. Raises also ModelRejected for such
    files."""
    with open_stored(clients.volume, manifest, at_end=at_end) as opened:
        if not opened.is_recorded:
            _audit(opened)
            opened.require_unchanged()
            opened.record()
        yield opened


def main_file(clients: Clients, manifest: Manifest) -> str:
    """The path of a snapshot's model in its manifest: the first shard of a split one. Raises NoGguf, and as
    `open_snapshot`."""
    models = [one for one in group_shards((file.path, file.size) for file in manifest.files) if not one.is_projector]
    if len(models) == 1 and not models[0].missing:
        return models[0].first
    with open_snapshot(clients, manifest) as opened:
        return get_gguf_file_path(opened.directory).relative_to(opened.directory).as_posix()


def _audit(opened: OpenSnapshot) -> None:
    manifest, directory = opened.manifest, opened.directory
    _LOG.warning(
        "the publication of %s is not recorded, since an earlier version of Paddock published it, or somebody removed"
        " the record: all of its files are read and audited",
        manifest.id,
    )
    findings: list[Finding] = []
    for model in group_shards((file.path, file.size) for file in manifest.files):
        if local_kind(directory / model.first) is ModelKind.PROJECTOR:
            with FileSource(directory / model.first) as source:
                findings += check_projector(source, name=model.first)
        else:
            findings += audit_paths([(path, directory / path) for path in model.paths], deep=True).findings
    template = directory / TEMPLATE_FILE
    if template.is_file():
        text = template.read_text(encoding="utf-8", errors="surrogatepass")
        chat = chat_format_for_template(text, directory)
        findings += audit_template(text, bos=chat.bos, eos=chat.eos)
    require_accepted(manifest.id.short, verdict_of(findings), findings)
