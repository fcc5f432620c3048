"""The dossier of a snapshot: all that is known of it, in one document, which is written as Markdown and as JSON.

A module of it is imported when one of its names is first used: making the document's classes takes a tenth of a
second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddock.lifecycle.dossier.document import DossierDocument, schema_text
    from paddock.lifecycle.dossier.page import head, markdown
    from paddock.lifecycle.dossier.write import (
        JSON_REPORT,
        REPORT,
        Dossier,
        dossier_kept_current,
        read_dossier,
        refresh_dossier,
        refresh_dossiers_with,
        write_dossier,
    )

_MODULES = {
    "Dossier": "write",
    "DossierDocument": "document",
    "JSON_REPORT": "write",
    "REPORT": "write",
    "dossier_kept_current": "write",
    "head": "page",
    "markdown": "page",
    "read_dossier": "write",
    "refresh_dossier": "write",
    "refresh_dossiers_with": "write",
    "schema_text": "document",
    "write_dossier": "write",
}

__all__ = [
    "JSON_REPORT",
    "REPORT",
    "Dossier",
    "DossierDocument",
    "dossier_kept_current",
    "head",
    "markdown",
    "read_dossier",
    "refresh_dossier",
    "refresh_dossiers_with",
    "schema_text",
    "write_dossier",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
