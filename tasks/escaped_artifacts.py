"""Create Prefect's artifacts with text of any origin in them.

Prefect's UI renders descriptions, and the texts in the cells of tables, as Markdown. Reasons, names of files, damage
and workers' names are untrusted: they are escaped here, for all artifacts. The page of a Markdown artifact is built
with `paddock.model.markdown` by its caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect import artifacts

from paddock.model.markdown import as_text


def create_table(*, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table of plain values; the names of its columns are Paddock's own."""
    cells = [{name: as_text(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    artifacts.create_table_artifact(key=key, table=cells, description=as_text(description))


def create_page(*, key: str, markdown: str, description: str) -> None:
    artifacts.create_markdown_artifact(key=key, markdown=markdown, description=as_text(description))


def create_progress(*, key: str, description: str) -> UUID:
    """A progress artifact at 0 percent, and its number for `update_progress`."""
    created = artifacts.create_progress_artifact(progress=0.0, key=key, description=as_text(description))
    return cast(UUID, created)  # a coroutine only in async callers


def update_progress(artifact_id: UUID, percent: float, description: str) -> None:
    artifacts.update_progress_artifact(artifact_id=artifact_id, progress=percent, description=as_text(description))
