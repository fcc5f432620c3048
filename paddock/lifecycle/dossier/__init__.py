"""The dossier of a snapshot: all that is known of it, in one document, which is written as Markdown and as JSON."""

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
