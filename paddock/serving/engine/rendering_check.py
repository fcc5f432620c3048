"""Compare the renderings of a started llama-server with those that the audit judged, before it gets a request.

llama-server renders chat templates with an implementation of its own, which the audit does not have. So it renders
sample conversations itself (`POST /apply-template`), and the result has to be what the sandbox renders; see
`rendering_difference` for what decides. It runs beside the canary, and takes some tenths of a second of one processor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import httpx

from paddock.chat.folding import fold_system_messages
from paddock.chat.probes import Probe, served_probes, trigger_probes
from paddock.chat.render import RenderRequest, TemplateProcess
from paddock.chat.rendering_difference import RenderingComparison, RenderingDifference
from paddock.chat.template import ChatFormat
from paddock.errors import EngineCrashed, EngineTooOld, ModelRejected
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import parse_object

_LOG = logging.getLogger(__name__)
_PATH: Final = "/apply-template"
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_TIMEOUT_S: Final = 30.0
_MOST_TRIGGERS: Final = 3
"""Conversations with the texts that the template compares with, and as many as the longest of those lengths."""
_CURE: Final = (
    "report the model and the engine's version; until then serve another model, or one of its other revisions"
)


async def check_rendering(client: httpx.AsyncClient, chat: ChatFormat) -> None:
    """Log harmless differences. Raises ModelRejected for one that decides, EngineTooOld if the server cannot render,
    EngineCrashed if the sandbox does not start, and httpx.HTTPError if the server does not answer."""
    differences = await rendering_differences(client, chat)
    for one in differences:
        if not one.is_harmless:
            raise ModelRejected(f"the engine renders the chat template otherwise than its audit: {one}", cure=_CURE)
    if differences:
        more = f", and in {len(differences) - 1} more conversations" if len(differences) > 1 else ""
        _LOG.warning("the engine renders the chat template otherwise than its audit: %s%s", differences[0], more)


async def rendering_differences(client: httpx.AsyncClient, chat: ChatFormat) -> list[RenderingDifference]:
    """Return the differences between the renderings of the server and those of the audit. Raises as
    `check_rendering`."""
    now = datetime.now()  # noqa: DTZ005 - the local time, as llama-server has it
    probes, audited = await asyncio.to_thread(_render, chat, now)
    served = [await _served(client, probe) for probe in probes]
    comparison = RenderingComparison(chat.template, bos=chat.bos, eos=chat.eos)
    found = [
        comparison.difference(probe.name, ours, theirs, has_tools=bool(probe.request.tools))
        for probe, ours, theirs in zip(probes, audited, served, strict=True)
    ]
    return [difference for difference in found if difference is not None]


def _render(chat: ChatFormat, now: datetime) -> tuple[list[Probe], list[str | None]]:
    """Return the probes as Paddock would send them, and their renderings in the sandbox."""
    with TemplateProcess(chat.template, bos=chat.bos, eos=chat.eos) as process:
        analysis = process.analyse()
        triggers = trigger_probes(analysis.texts, ())[:_MOST_TRIGGERS] + trigger_probes((), analysis.numbers)[-1:]
        sent, texts = [], []
        for found in (*served_probes(chat.template), *triggers):
            probe = replace(found, request=replace(found.request.as_served(), now=now))
            result = process.render(probe.request)
            renders_system = not probe.has_system or (result.ok and result.text.count(probe.contents[0][1]) == 1)
            request = probe.request if renders_system else _folded(probe.request)
            if not renders_system:
                result = process.render(request)
            sent.append(replace(probe, request=request))
            texts.append(result.text if result.ok else None)
    return sent, texts


def _folded(request: RenderRequest) -> RenderRequest:
    return replace(request, messages=fold_system_messages([dict(message) for message in request.messages]))


async def _served(client: httpx.AsyncClient, probe: Probe) -> str | None:
    """Return the server's rendering; None if it refuses the conversation."""
    answer = await client.post(_PATH, json=_body(probe), timeout=_TIMEOUT_S)
    if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        raise EngineTooOld(
            f"this llama-server does not answer {_PATH}, so its renderings of chats cannot be checked",
            cure="unset PADDOCK_LLAMA_SERVER, to use the one of the installed engine",
        )
    if answer.status_code != HTTPStatus.OK:
        return None
    try:
        prompt = parse_object(answer.content, max_bytes=_MAX_ANSWER_BYTES, strict=False).get("prompt")
    except UnusableContent as error:
        raise EngineCrashed(
            f"the engine's answer to {_PATH} cannot be used: {error.reason}", cure="see its log"
        ) from None
    return prompt if isinstance(prompt, str) else None


def _body(probe: Probe) -> dict[str, Any]:
    request = probe.request
    efforts = {name: value for name, value in request.extra.items() if name == "reasoning_effort"}
    body: dict[str, Any] = {
        "messages": list(request.messages),
        "add_generation_prompt": request.add_generation_prompt,
        "chat_template_kwargs": {"enable_thinking": request.extra["enable_thinking"]},
        **efforts,
    }
    tools: Sequence[Mapping[str, object]] = request.tools or ()
    return {**body, "tools": list(tools)} if tools else body
