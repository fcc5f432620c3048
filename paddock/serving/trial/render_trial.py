"""Render the conversation of a request in the sandbox, with limits, before the engine renders it without any.

llama-server renders a chat template in its own process, and does not end a rendering that takes too long or too much
memory. What takes more in the sandbox than the audit allows is refused here, before the engine gets it. A rendering
ends with its client: cancelling `check` kills it.

Whether the template refuses the conversation, or renders it well, is left to the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from paddock.chat.limited_renderer import LimitedRenderer
from paddock.chat.protocol import WALL_S, RenderResult, RenderStatus
from paddock.chat.render import RenderRequest
from paddock.chat.template import ChatFormat
from paddock.chat.variables import effort_variables, kept_thoughts
from paddock.errors import PaddockError
from paddock.serving.requests.parse import CHAT, EngineRequest, RequestRefused
from paddock.serving.threads import in_thread

_LOG = logging.getLogger(__name__)
_CONVERSATION: Final = ("messages", "tools", "chat_template_kwargs", "reasoning_effort")
_REMEMBERED: Final = 256
_RETRY_AFTER_S: Final = 5


class RenderTrial:
    """Renders the conversations of one served model, `at_once` at the same time."""

    def __init__(self, chat: ChatFormat, *, at_once: int) -> None:
        self._chat = chat
        self._turns = asyncio.Semaphore(at_once)
        self._idle: list[LimitedRenderer] = []
        self._refused: OrderedDict[str, str] = OrderedDict()

    async def check(self, request: EngineRequest) -> None:
        """Return if rendering the request's conversation stays within the limits. Raises RequestRefused."""
        if request.path != CHAT:
            return
        digest = _digest(request.body) if self._refused else ""
        if digest in self._refused:
            raise _refusal(self._refused[digest])
        async with self._turns:
            result = await self._try(request.body)
        if result.status.is_limit:
            self._refused[digest or _digest(request.body)] = result.text
            if len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)
            raise _refusal(result.text)

    async def close(self) -> None:
        """End the subprocesses."""
        renderers, self._idle = self._idle, []
        for renderer in renderers:
            renderer.close()

    async def _try(self, body: Mapping[str, Any]) -> RenderResult:
        chat = self._chat
        renderer = self._idle.pop() if self._idle else LimitedRenderer(chat.template, bos=chat.bos, eos=chat.eos)
        work = asyncio.ensure_future(in_thread(lambda: renderer.try_out(conversation(body))))
        try:
            async with asyncio.timeout(WALL_S):
                result = await asyncio.shield(work)
        except TimeoutError:
            await _end(renderer, work)
            return RenderResult(RenderStatus.KILLED, "rendering exceeded the time limit")
        except PaddockError as error:
            _LOG.warning("chats cannot be checked: %s", error)
            reason = "chats cannot be checked at the moment"
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE, reason, code="not_ready", retry_after_s=_RETRY_AFTER_S
            ) from None
        except BaseException:
            await _end(renderer, work)
            raise
        self._idle.append(renderer)
        return result


async def _end(renderer: LimitedRenderer, work: asyncio.Future[RenderResult]) -> None:
    """Kill a rendering, and close its subprocess once its thread has seen that."""
    renderer.kill()
    await asyncio.gather(work, return_exceptions=True)
    renderer.close()


def conversation(body: Mapping[str, Any]) -> RenderRequest:
    """Return what the template gets of a request. Images are left out: the engine puts a marker in their places."""
    variables = dict(body.get("chat_template_kwargs") or {})
    if isinstance(keep := variables.get("preserve_reasoning"), bool):
        variables |= kept_thoughts(keep=keep)
    effort = body.get("reasoning_effort")
    if effort == "none":
        variables["enable_thinking"] = False
    elif isinstance(effort, str):
        variables |= effort_variables(effort)
    return RenderRequest(
        [_without_images(message) for message in body["messages"]],
        tools=body.get("tools"),
        add_generation_prompt=body.get("add_generation_prompt", True),
        extra=variables,
    ).as_served()


def _without_images(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [part if part.get("type") == "text" else {"type": "image"} for part in content]}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([body.get(name) for name in _CONVERSATION]).encode()).hexdigest()


def _refusal(reason: str) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.BAD_REQUEST,
        f"messages: rendering this conversation takes more than the chat template may: {reason}",
        code="invalid_value",
        param="messages",
    )
