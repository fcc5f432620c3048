"""Where the catalog is, and how its file is read and replaced.

It is PADDOCK_CATALOG, a file or an object of a remote store, which has to exist; or else `infra/catalog.yaml` of the
current directory where there is one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from paddock.errors import BadCatalog, BadSetting, NoPermission, NoSuchFile, NotEnoughDisk, PaddockError
from paddock.settings import Settings
from paddock.settings.values import parse_catalog_place
from paddock.store import durable
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import read_head

if TYPE_CHECKING:
    from paddock.lifecycle.catalog.check import Catalog, CheckedCatalog
    from paddock.lifecycle.catalog.stored_object import CatalogObject

DEFAULT_PATH: Final = Path("infra/catalog.yaml")
_MAKE_ONE: Final = "`paddock catalog add MODEL` makes one"


def catalog_place(settings: Settings, named: str | None = None) -> Path | CatalogObject:
    """Where the catalog is, or would be: at `named`, by default at PADDOCK_CATALOG. Raises BadSetting."""
    try:
        place = settings.catalog if named is None else parse_catalog_place(named)
    except ValueError as error:
        raise BadSetting(f"the place of the catalog is not usable: {error}", cure="correct it") from None
    if not isinstance(place, str):
        return place or DEFAULT_PATH
    from paddock.lifecycle.catalog.stored_object import CatalogObject

    return CatalogObject(place, settings)


def load_catalog(settings: Settings) -> Catalog | None:
    """The catalog; None where PADDOCK_CATALOG is not set and there is no file at the default place.

    Raises BadCatalog with all problems and their lines, NoSuchFile, and NoPermission; for an object, StoreUnavailable,
    StoreRefused and BadSetting.
    """
    if settings.catalog is None and not os.path.lexists(DEFAULT_PATH):
        return None
    return require_catalog(settings)


def require_catalog(settings: Settings, named: str | None = None) -> Catalog:
    """The catalog, by default that of PADDOCK_CATALOG. Raises as `load_catalog`, and NoSuchFile where there is none."""
    checked = read_catalog(catalog_place(settings, named))
    if checked.problems:
        raise checked.error()
    return checked.catalog


def read_catalog(place: Path | CatalogObject) -> CheckedCatalog:
    """Read and check a catalog. Raises as `load_catalog`, but for its problems; and BadCatalog for what is not a
    file."""
    from paddock.lifecycle.catalog.check import check_catalog

    content = read_content(place) if isinstance(place, Path) else place.read()
    return check_catalog(content, str(place))


def read_content(path: Path) -> bytes:
    """The content of a catalog's file, or the beginning of one that is too large. Raises NoSuchFile, NoPermission, and
    BadCatalog for what is not a file."""
    from paddock.lifecycle.catalog.check import MAX_BYTES

    try:
        return read_head(path, max_bytes=MAX_BYTES + 1, follow=True)
    except UnusableContent as error:
        reason = error.reason.removeprefix("it ")
        raise BadCatalog(f"the catalog {path} {reason}", cure="set PADDOCK_CATALOG to a file") from None
    except FileNotFoundError:
        raise NoSuchFile(
            f"there is no catalog {path.absolute()}", cure=f"{_MAKE_ONE}; or correct PADDOCK_CATALOG"
        ) from None
    except PermissionError:
        raise NoPermission(f"the catalog {path} may not be read", cure="make it readable for this user") from None
    except OSError as error:
        raise NoSuchFile(
            f"the catalog {path} cannot be read: {error.strerror}", cure="set PADDOCK_CATALOG to a file"
        ) from None


@contextmanager
def locked_for_editing(path: Path) -> Iterator[None]:
    """Keep other processes from editing the catalog until the block ends; its directory is made where it is missing.
    Where the file system has no locks, nobody is kept out."""
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_content(path: Path, content: bytes) -> None:
    """Replace the catalog by one rename. It keeps its mode and owner, and a link to it stays a link. Raises
    NoPermission and NotEnoughDisk."""
    with _write_errors(path):
        target = path.resolve()
        status = target.stat() if target.exists() else None
        staged = durable.staging_name(target.parent)
        try:
            durable.write_new(staged, content)
            if status is not None:
                staged.chmod(stat.S_IMODE(status.st_mode))
                with suppress(PermissionError):  # only root may give a file to another user
                    os.chown(staged, status.st_uid, status.st_gid)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
        durable.sync_directory(target.parent)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Map each OSError that a block raises to an error of Paddock."""
    try:
        yield
    except PaddockError:  # some are an OSError too
        raise
    except OSError as error:
        message = f"the catalog {path} cannot be written: {error.filename or path}: {error.strerror or error}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NotEnoughDisk(message, cure="free space there") from None
        raise NoPermission(
            message, cure="give this user access to its directory, or set PADDOCK_CATALOG to another file"
        ) from None
