"""Run a flow in this process, recorded by the Prefect server of PREFECT_API_URL, and map its errors for the CLI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from paddock.errors import BadSetting, OrchestratorUnavailable

_CLIENT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError)
"""Raised by Prefect's client if its server does not answer, or sends an invalid response. An exception of the flow is
in its state."""


def run_local(flow: Flow[..., Any], **parameters: Any) -> tuple[str, Any]:
    """Run a flow, and return (the name of its final state, the flow's result).

    Raises the exception of a failed flow, BadSetting for a parameter that the flow does not accept, and
    OrchestratorUnavailable.
    """
    server = server_address()
    ui = PREFECT_UI_URL.value()
    # Prefect logs the URL of the run, with the password in it.
    settings = {PREFECT_UI_URL: _without_credentials(ui)} if ui and "@" in ui else {}
    with temporary_settings(settings):
        _require_server(server)
        try:
            state: State[Any] = flow(**parameters, return_state=True)  # type: ignore[assignment] # the type of an async flow
        except ParameterTypeError as error:
            raise _refused_parameter(error) from None
        except _CLIENT_ERRORS as error:
            raise _unavailable(server, error) from None
        result = state.result(raise_on_failure=False)
    if isinstance(result, ParameterTypeError):
        raise _refused_parameter(result)
    if isinstance(result, httpx.HTTPError):  # raised by Prefect in a task or subflow: the library maps the Hub's
        raise _unavailable(server, result) from None
    if isinstance(result, BaseException):
        raise result
    return str(state.name), result


def server_address() -> str:
    """The scheme, host and port of the configured Prefect server."""
    return _without_credentials(PREFECT_API_URL.value() or "")


def _require_server(server: str) -> None:
    """Raise OrchestratorUnavailable unless Prefect's server answers."""
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except _CLIENT_ERRORS as error:
        problem = error
    if problem is not None:
        raise _unavailable(server, problem) from None


def _unavailable(server: str, error: Exception) -> OrchestratorUnavailable:
    return OrchestratorUnavailable(
        f"Prefect's server {server} does not answer correctly: {_reason(error)}",
        cure="start it, correct PREFECT_API_URL and the credentials, or unset it to run without Prefect",
    )


def _without_credentials(url: str) -> str:
    """The scheme, host and port of a URL. The rest may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return "of PREFECT_API_URL"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port is not None else ''}"


def _reason(error: Exception) -> str:
    """The operating system's error, or the status of the response. The client's own message may quote the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return f"it answers {cause.response.status_code}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    quotes = not isinstance(error, RuntimeError) or "://" in str(error)
    return type(error).__name__ if quotes else str(error)


def _refused_parameter(error: ParameterTypeError) -> BadSetting:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(line for line in lines[1:4] if not line.startswith("For further"))
    return BadSetting(f"the flow does not accept its parameters: {reason}", cure="correct them")
