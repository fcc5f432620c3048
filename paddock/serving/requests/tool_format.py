"""Answer requests with tools also where the engine cannot recognize the model's tool calls.

llama-server derives the form of tool calls from the chat template. Where that fails, it answers any request with tools
with an error. Then calls come as text, and a request that needs a call is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import httpx

from paddock.serving.refusal import UNSUPPORTED, bad_request
from paddock.serving.requests.parse import CHAT, EngineRequest

UNRECOGNIZED: Final = "The model produced output that does not match the expected"
"""Begin of llama-server's message for an answer that it cannot parse."""
_PROBE: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "a"}],
    "tools": [{"type": "function", "function": {"name": "probe", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
    "max_tokens": 1,
    "temperature": 0,
}
"""Whatever its one token is, it is the begin of a text or of a tool call: the engine fails if it can tell neither."""


class ToolFormat:
    """Whether the engine recognizes tool calls, found by one short request before the first that has tools."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._is_known: bool | None = None

    async def fit(self, request: EngineRequest) -> EngineRequest:
        """Return the request as the engine can answer it. Raises RequestRefused, and httpx.TransportError."""
        choice = request.body.get("tool_choice")
        if "tools" not in request.body or choice == "none" or await self._known():
            return request
        if choice == "required":
            message = "a tool call cannot be required: the engine does not recognize those of the model's chat template"
            raise bad_request(message, param="tool_choice", code=UNSUPPORTED)
        return replace(request, body={**request.body, "tool_choice": "none"})  # the template still gets the tools

    async def _known(self) -> bool:
        async with self._lock:
            if self._is_known is None:
                answer = await self._client.post(CHAT, json=_PROBE)
                failed = answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
                self._is_known = not (failed and UNRECOGNIZED in answer.text)
            return self._is_known
