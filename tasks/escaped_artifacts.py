"""Create Prefect's artifacts with text of any origin in them.

Prefect's UI renders descriptions, and the texts in the cells of tables, as Markdown. Reasons, names of files, damage
and workers' names are untrusted: they are escaped here, for all artifacts. The page of a Markdown artifact is built
with `paddock.model.markdown` by its caller.

An artifact that the server does not take fails no step: by then the step has done its work, such as a promotion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import artifacts

from paddock.model.markdown import as_text
from tasks.fitted_tables import fits, fitted_table, with_fitted_tables

_LOG = logging.getLogger(__name__)


def create_table(*, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table of plain values; the names of its columns are Paddock's own. One that is too wide for Prefect's pages is
    written as Markdown, with the long rows in a list."""
    cells = [{name: as_text(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    head = list(dict.fromkeys(name for row in cells for name in row))
    texts = [["" if row.get(name) is None else str(row[name]) for name in head] for row in cells]
    if not fits(head, texts):
        create_page(key=key, markdown=fitted_table(head, texts), description=description)
        return
    with _optional(key):
        artifacts.create_table_artifact(key=key, table=cells, description=as_text(description))


def create_page(*, key: str, markdown: str, description: str) -> None:
    with _optional(key):
        artifacts.create_markdown_artifact(
            key=key, markdown=with_fitted_tables(markdown), description=as_text(description)
        )


def create_progress(*, key: str, description: str) -> UUID | None:
    """A progress artifact at 0 percent, and its number for `update_progress`; None where the server did not take it."""
    with _optional(key):
        created = artifacts.create_progress_artifact(progress=0.0, key=key, description=as_text(description))
        return cast(UUID, created)  # a coroutine only in async callers
    return None


def update_progress(artifact_id: UUID | None, percent: float, description: str) -> None:
    """Update a progress artifact, if there is one."""
    if artifact_id is not None:
        with _optional("of the progress"):
            artifacts.update_progress_artifact(
                artifact_id=artifact_id, progress=percent, description=as_text(description)
            )


@contextmanager
def _optional(key: str) -> Iterator[None]:
    """Log that the server failed or could not be reached. One that refuses an artifact as invalid still raises."""
    try:
        yield
    except httpx.TransportError as error:
        reason = type(error).__name__
    except httpx.HTTPStatusError as error:
        if not error.response.is_server_error:
            raise
        reason = f"status {error.response.status_code}"
    else:
        return
    _LOG.warning("the artifact %s was not written: %s from the Prefect server", key, reason)
