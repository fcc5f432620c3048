"""Read secrets from blocks of the Prefect server, for the variables that a worker's environment does not set.

The values stay in this process: they are in no environment variable, which child processes would inherit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import BlockDocumentFilter, BlockDocumentFilterName, BlockTypeFilter
from prefect.client.schemas.filters import BlockTypeFilterSlug as Slug
from prefect.context import FlowRunContext

from paddock.errors import BadSetting, OrchestratorUnavailable
from paddock.lifecycle.clients import Clients, connect_with
from paddock.settings import SECRETS, StoredSecret, missing_secrets

BLOCKS: Final[Mapping[str, str]] = {
    variable: f"paddock-{variable.removeprefix('PADDOCK_').lower().replace('_', '-')}" for variable in SECRETS
}
"""The name of the Secret block of each variable."""

_FOUND: ContextVar[tuple[UUID, Mapping[str, StoredSecret]] | None] = ContextVar("_FOUND", default=None)
"""A flow run, and what it found. The runs below it in this process use that, too."""


def connect_run(catalog: str | None = None) -> Clients:
    """Clients of a flow run, with secrets from the environment and from blocks. `catalog` as for `connect_with`.

    It sends one request in a run, and none where the environment has every secret. Raises BadSetting, and
    OrchestratorUnavailable.
    """
    return connect_with(catalog, _secrets_of_run())


def read_secrets(client: SyncPrefectClient, variables: Iterable[str]) -> Mapping[str, StoredSecret]:
    """The secrets of those variables that have a block, by one request. Raises BadSetting for a block that has no text,
    and httpx.HTTPError."""
    names = [BLOCKS[variable] for variable in variables]
    if not names:
        return {}
    request = {
        "block_documents": BlockDocumentFilter(name=BlockDocumentFilterName(any_=names)).model_dump(mode="json"),
        "block_types": BlockTypeFilter(slug=Slug(any_=["secret"])).model_dump(mode="json"),
        "include_secrets": True,
    }
    found: list[dict[str, Any]] = client.request("POST", "/block_documents/filter", json=request).json()
    secrets = {block["name"]: _secret(block) for block in found}
    return {variable: secrets[name] for variable, name in BLOCKS.items() if name in secrets}


def _secret(block: Mapping[str, Any]) -> StoredSecret:
    place, value = f"the block {block['name']} of the Prefect server", block["data"].get("value")
    if not isinstance(value, str) or not value.strip():
        raise BadSetting(f"{place} holds no text", cure="store the secret in it as a plain text, or delete it")
    return StoredSecret(place, value)


def _secrets_of_run() -> Mapping[str, StoredSecret]:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return {}
    found = _FOUND.get()
    if found is None or (found[0] != run.id and run.parent_task_run_id is None):
        try:
            with get_client(sync_client=True) as client:
                found = run.id, read_secrets(client, missing_secrets())
        except httpx.HTTPError as error:  # whose text quotes the address, which may have a password in it
            raise OrchestratorUnavailable(
                f"the Prefect server did not give its Secret blocks ({type(error).__name__})",
                cure=f"see the server's log, or set {', '.join(sorted(missing_secrets()))} in the environment",
            ) from None
        _FOUND.set(found)
    return found[1]
