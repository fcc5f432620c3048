"""Parse stored manifests, compare them, and check the names and texts of reports: the same rules in every store."""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import suppress

from paddock.errors import CorruptFile, UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import parse_repository_path
from paddock.model.reference import SnapshotId
from paddock.untrusted.content import UnusableContent

MANIFEST_NAME = "manifest.json"
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
"""Bytes that are read of a report, a note or a tuning record at most. A dossier with all its tables has 0.1 MB."""


def parse_manifest(text: bytes, id: SnapshotId, *, where: str) -> Manifest:
    """Parse the manifest that is stored for a snapshot at `where`. Raises CorruptFile for one that cannot be read, or
    is that of another snapshot."""
    cure = manifest_cure(id)
    manifest = Manifest.from_json(text, where=where, cure=cure)
    if manifest.id != id:
        raise CorruptFile(f"the manifest {where} is that of {manifest.id}, not of {id}", cure=cure)
    return manifest


def manifest_cure(id: SnapshotId) -> str:
    """The cure for a manifest that cannot be used."""
    return f"remove it with `paddock rm {id}`, then pull it again"


def same_files(one: Manifest, other: Manifest, *, but: Set[str] = frozenset()) -> bool:
    """Whether two manifests are of the same snapshot and name the same files, not counting those with a path in `but`.
    The date, the version of Paddock and the findings may differ: the manifest that was published first is kept."""
    pairs = [{(file.path, file.sha256) for file in manifest.files if file.path not in but} for manifest in (one, other)]
    return one.id == other.id and pairs[0] == pairs[1]


def check_manifest_name_is_free(manifest: Manifest) -> None:
    """Check that no file of the repository has the manifest's own name. Raises UnsafeName."""
    for file in manifest.files:
        if file.path.split("/", maxsplit=1)[0].casefold() == MANIFEST_NAME:
            raise UnsafeName(
                f"the file {file.path!r} of {manifest.repository} has the name of the snapshot's own manifest",
                cure="leave that file out",
            )


def check_report_name(name: str) -> str:
    """Return `name` unchanged. Raises UnsafeName unless it is one safe file name."""
    if "/" in name:
        raise UnsafeName(f"the report name {name[:80]!r} is not one file name", cure="give a name without '/'")
    return parse_repository_path(name)


def report_names(names: Iterable[str]) -> list[str]:
    """Those of the names that a report may have, sorted."""
    found = []
    for name in names:
        with suppress(UnsafeName):
            found.append(check_report_name(name))
    return sorted(found)


def document_text(content: bytes) -> str:
    """The text of a report or note. Raises UnusableContent."""
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UnusableContent(f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnusableContent(f"it is not UTF-8: byte {error.start} cannot be decoded") from None
