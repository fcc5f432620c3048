"""Download a model as plain files into any directory, for callers that use no volume."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from paddock.chat.template import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, is_published, setup_chat_template
from paddock.errors import CorruptFile, HubRefused, HubUnavailable, NoPermission, NotEnoughDisk, PaddockError
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.audit import audit_paths
from paddock.lifecycle.assess.model_source import source_from_listing
from paddock.lifecycle.assess.sound_models import best_sound_model
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.revisions import list_revision
from paddock.lifecycle.stored_listing import MAIN, hub_is_out
from paddock.model.artifact import Listing, RepositoryFile
from paddock.model.finding import Verdict
from paddock.model.quantization import group_shards, is_gguf, local_files
from paddock.model.reference import Reference, Variant
from paddock.model.source import Expected
from paddock.model.units import human_bytes
from paddock.model.variants import match_models, name_variants
from paddock.planning.companions import left_out_notes
from paddock.planning.file_selection import require_gguf, select_files
from paddock.store import durable
from paddock.transfer.digest import verify_file
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from paddock.validation.companions import check_companions, companion_notes

log = logging.getLogger(__name__)

_STAGING = ".paddock-partial"

log = logging.getLogger(__name__)


def download_model_to_path(model_name: str, model_path: Path) -> Path:
    """Download the default choice of the `main` revision of a model, verified and resumed, and return `model_path`.

    `model_name` is `org/name` or `org/name:VARIANT`. Where `model_path` is the model's path on the volume
    (`get_model_path_from_name`), the model is pulled and promoted: blobs are shared, and a second call fetches nothing.
    Any other directory gets plain files and the chat template. A file has its name there only after it was verified; a
    call that was killed is resumed by the next. What the volume has is copied from there.

    Without the Hub, what is on the volume is the answer (`paddock.lifecycle.revisions`), else a complete model
    that the directory holds already. A model that was renamed on the Hub, or has another case there, is pulled under
    the Hub's name; then its path is returned.

    Raises UnsafeName for a hostile name, and the errors of `paddock.errors` for everything else.
    """
    wanted = Reference.parse(model_name)
    model = wanted.model
    clients = connect()
    target = Path(model_path)
    names = [model, clients.volume.spelled(model)]
    variant = clients.volume.resolve_variant(names[1], wanted.variant) if wanted.variant else None
    volume_path, typed_path = [clients.volume.model_path(name, variant) for name in reversed(names)]
    if _resolve_parent(target) in map(_resolve_parent, (volume_path, typed_path)):
        pulled = pull(clients, wanted)
        return model_path if target.exists() else pulled.path
    if is_published(target) or target.resolve().is_relative_to(clients.volume.root.resolve()):
        raise NoPermission(
            f"{target} is inside {clients.volume.label}, and is not the path of {wanted} there",
            cure=f"use {volume_path}, or a directory outside of the volume",
        )
    try:
        listing = list_revision(clients, model, wanted.ref or MAIN, variant=wanted.variant)
    except (HubUnavailable, HubRefused) as error:
        if not hub_is_out(clients, error) or not _is_complete(target, wanted.variant):
            raise
        log.warning("%s; the model in %s is complete, and is used as it is", error.message, target)
        setup_chat_template(target, str(model))
        return model_path
    require_gguf(listing)
    source = source_from_listing(clients, listing, variant=wanted.variant)
    best = best_sound_model(source)
    choice = select_files(listing, survey=source.survey, prefer=best.first)
    for note in left_out_notes(choice.left_out):
        log.warning("%s", note)
    _make_staging(target)
    # The template that is written is the one in the GGUF, not the repository's file of that name.
    files = [file for file in choice.files if file.path != TEMPLATE_FILE]
    missing = [file for file in files if not _is_whole(clients, target, file)]
    _require_free_space(target, sum(file.size for file in missing))
    for file in missing:
        if not _copy_from_volume(clients, file, target):
            _download(clients, listing, file, target)
    if missing:  # an existing template is that of the replaced files
        (target / TEMPLATE_FILE).unlink(missing_ok=True)
    # `setup_chat_template` itself warns of the tokenizer's configuration
    others = [file.path for file in files if not is_gguf(file.path) and file.path != TOKENIZER_CONFIG_FILE]
    for note in companion_notes(check_companions(target, others)):
        log.warning("%s", note)
    setup_chat_template(target, str(model))
    with suppress(OSError):  # not empty: another process uses it
        (target / _STAGING).rmdir()
    return model_path


def _resolve_parent(path: Path) -> Path:
    """Resolve the links of a path's directory, but not of its last component."""
    return path.parent.resolve() / path.name


def _make_staging(target: Path) -> None:
    try:
        (target / _STAGING).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoPermission(
            f"the directory {target} cannot be created or written: {error.strerror}", cure="choose another one"
        ) from None


def _is_whole(clients: Clients, target: Path, file: RepositoryFile) -> bool:
    """Whether the file exists with the right digest. The whole file is read."""
    path = target / file.path
    if not path.is_file() or path.is_symlink():
        return False
    try:
        verify_file(path, Expected(file.size, file.sha256, file.git_sha1), clients.settings.segment_bytes)
    except CorruptFile:
        return False
    return file.sha256 is not None or file.git_sha1 is not None


def _is_complete(target: Path, variant: Variant | None) -> bool:
    """Whether a directory holds a whole model, of that variant if one is named, by the headers of its files. Their
    digests are not known without the Hub."""
    if not target.is_dir() or (target / _STAGING).exists():
        return False
    sets = group_shards(local_files(target))
    names = name_variants(sets)
    try:
        best = get_gguf_file_path(target).relative_to(target).as_posix()
        found = match_models(names, variant) if variant else [gguf for gguf in sets if best in gguf.paths]
        return any(
            not gguf.missing and audit_paths([(name, target / name) for name in gguf.paths]).verdict != Verdict.REJECT
            for gguf in found
        )
    except PaddockError:
        return False


def _copy_from_volume(clients: Clients, file: RepositoryFile, target: Path) -> bool:
    """Copy a file from the volume's blobs, and verify the copy. False where the volume does not have it, or only with
    wrong bytes."""
    if file.sha256 is None or not clients.volume.has_blob(file.sha256, file.size):
        return False
    path = target / file.path
    staged = durable.staging_name(target / _STAGING)
    try:
        with durable.disk_errors_in(target):
            shutil.copyfile(clients.volume.blob_path(file.sha256), staged)
            verify_file(staged, Expected(file.size, file.sha256), clients.settings.segment_bytes)
            durable.sync_file(staged)
            path.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(path)
    except CorruptFile as error:
        log.warning("%s; it is fetched from the Hub instead", error.message)
        return False
    finally:
        staged.unlink(missing_ok=True)
    return True


def _require_free_space(target: Path, need_bytes: int) -> None:
    status = os.statvfs(target)
    free_bytes = status.f_bavail * status.f_frsize
    if need_bytes > free_bytes:
        raise NotEnoughDisk(
            f"{target} has {human_bytes(free_bytes)} free, and the model takes {human_bytes(need_bytes)}",
            cure="free space there, or use another directory",
        )


def _identity(path: Path) -> int | None:
    """The inode of a path. It changes when another process replaces the file."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _download(clients: Clients, listing: Listing, file: RepositoryFile, target: Path) -> None:
    source = clients.hub.file(listing.model, listing.revision, file)
    path = target / file.path
    before = _identity(path)
    staged = fetch(
        source,
        staging=target / _STAGING,
        options=Options.of(clients.settings),
        is_published=lambda: _identity(path) not in {None, before},
    )
    if staged is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.path.replace(path)
        staged.discard()
