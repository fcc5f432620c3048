"""Open a snapshot for use: compare its files with its manifest, and the manifest with the record of its publication.

Where there is no such record, a manifest could name files that nobody audited. Then all files are hashed and audited as
before a publication, and the manifest is recorded after that. So a volume of an earlier version of Paddock can be used,
and whoever removes the record gains nothing by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddock.chat.audit import audit_template
from paddock.chat.protocol import MAX_SOURCE_BYTES
from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE, ChatFormat, chat_format_for_template, read_chat_format
from paddock.errors import CorruptFile
from paddock.gguf.directory import get_gguf_file_path, local_kind
from paddock.gguf.kind import ModelKind
from paddock.gguf.source import FileSource
from paddock.lifecycle.assess.audit import audit_paths, require_accepted
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, verdict_of
from paddock.model.quantization import group_shards
from paddock.store.open_snapshot import OpenSnapshot, open_stored
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import read_regular
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
    chat = None
    if (directory / TEMPLATE_FILE).is_file():
        text = _text(manifest, directory, TEMPLATE_FILE)
        chat = chat_format_for_template(text, directory)
        findings += audit_template(text, bos=chat.bos, eos=chat.eos)
    require_accepted(manifest.id.short, verdict_of(findings), findings)
    if chat is not None and (directory / CHAT_FILE).is_file():
        _compare_settings(manifest, directory, chat)


def _compare_settings(manifest: Manifest, directory: Path, derived: ChatFormat) -> None:
    """Raise CorruptFile for chat settings that are not those which the template leads to."""
    try:
        stored = read_chat_format(_text(manifest, directory, CHAT_FILE), derived.template, directory)
        is_same = (stored.bos, stored.eos, stored.stop) == (derived.bos, derived.eos, derived.stop)
    except (ValueError, KeyError, TypeError):
        is_same = False
    if not is_same:
        raise _unusable(manifest, CHAT_FILE, "has other settings than its chat template leads to")


def _text(manifest: Manifest, directory: Path, name: str) -> str:
    """The text of a small file, which may be a link to its descriptor. Raises CorruptFile."""
    try:
        return read_regular(directory / name, max_bytes=MAX_SOURCE_BYTES, follow=True).decode(errors="surrogatepass")
    except ValueError as error:  # UnusableContent, and what is not UTF-8
        reason = error.reason if isinstance(error, UnusableContent) else "it is not UTF-8"
        raise _unusable(manifest, name, f"cannot be used: {reason}") from None


def _unusable(manifest: Manifest, name: str, why: str) -> CorruptFile:
    cure = f"remove it with `paddock rm {manifest.id}`, then pull it again"
    return CorruptFile(f"{name} of {manifest.id.short} {why}", cure=cure)
