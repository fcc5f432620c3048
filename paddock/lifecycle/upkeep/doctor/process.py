"""Checks of this process and its settings: open files, temporary files, the download backend, the catalog."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from paddock.errors import PaddockError
from paddock.lifecycle.catalog import load_catalog
from paddock.lifecycle.catalog.file import DEFAULT_PATH
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor.check import CheckResult, failure
from paddock.model.units import human_bytes

_OPEN_FILES: Final = 1024
_TEMPORARY_BYTES: Final = 64 * 1024 * 1024
"""The headers of a model, and what a server keeps beside its socket."""
_PACKAGES: Final = {"hf_transfer": "hf_transfer", "xet": "hf_xet"}


def check_open_files(clients: Clients) -> Sequence[CheckResult]:  # noqa: ARG001 - the signature of a check
    """The process may open as many files and connections as a server needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {resource.RLIM_INFINITY, -1} or soft >= _OPEN_FILES:
        return [CheckResult("open files", True, f"{soft} at once")]
    message = f"{soft} at once, and {_OPEN_FILES} are needed to serve and to download over many connections"
    can_raise = hard in {resource.RLIM_INFINITY, -1} or hard >= _OPEN_FILES
    cure = f"`ulimit -n {_OPEN_FILES}`" if can_raise else f"raise the hard limit, which is {hard}, as root"
    return [CheckResult("open files", False, message, f"{cure}, or LimitNOFILE= of the systemd unit", needed=False)]


def check_temporary_files(clients: Clients) -> Sequence[CheckResult]:  # noqa: ARG001 - the signature of a check
    """Temporary files can be written."""
    name = "temporary files"
    cure = "free space there, or set TMPDIR to a directory that can be written"
    try:
        directory = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"1")
            file.flush()
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        return [CheckResult(name, False, f"they cannot be written: {error.strerror or error}", cure)]
    if free_bytes < _TEMPORARY_BYTES:
        message = f"{directory} has {human_bytes(free_bytes)} free, and {human_bytes(_TEMPORARY_BYTES)} are needed"
        return [CheckResult(name, False, message, cure)]
    return [CheckResult(name, True, f"{human_bytes(free_bytes)} free in {directory}")]


def check_transfer(clients: Clients) -> Sequence[CheckResult]:
    """The package of the chosen download backend is installed."""
    settings = clients.settings
    backend = settings.transfer or ("hf_transfer" if settings.hub_transfer else "paddock")
    package = _PACKAGES.get(backend)
    if package is not None:
        try:
            import_module(package)
        except ImportError:
            chosen = "PADDOCK_TRANSFER" if settings.transfer else "HF_HUB_ENABLE_HF_TRANSFER"
            message = f"{chosen} chooses {backend}, and the package {package} is not installed"
            return [CheckResult("transfer", False, message, f"install {package}, or unset {chosen}")]
    return [CheckResult("transfer", True, f"{backend}, {settings.connections} connections")]


def check_catalog_file(clients: Clients) -> Sequence[CheckResult]:
    """The catalog, where there is one, is valid."""
    try:
        catalog = load_catalog(clients.settings)
    except PaddockError as error:
        return [failure("catalog", error)]
    if catalog is None:
        return [CheckResult("catalog", True, f"none: there is no {DEFAULT_PATH.absolute()}")]
    wanted = "1 entry" if len(catalog.entries) == 1 else f"{len(catalog.entries)} entries"
    return [CheckResult("catalog", True, f"{catalog.name}: {wanted}")]
