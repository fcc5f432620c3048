"""A conversation whose rendering takes too long, or too much, is refused before the engine renders it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest

from paddock.chat.template import ChatFormat
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.refusal import RequestRefused
from paddock.serving.requests.parse import CHAT, COMPLETION, EngineRequest
from paddock.serving.spec import ServeSpec
from paddock.serving.trial.render_trial import RenderTrial
from tests.support.serving import ask, running
from tests.support.templates import CHATML
from tests.support.waiting import wait_for

LOOPS = "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}"
GROWING = "{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s + n.s + m.content %}{% endfor %}"
RECURSIVE = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(messages[0].content|length) }}"


def chat(count: int, content: str = "Hello.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}] * count}


def tool(text: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "a", "description": text, "parameters": {}}}


TOO_MUCH: dict[str, tuple[str, dict[str, Any]]] = {
    "nested loops over many messages": (LOOPS, chat(3000)),
    "text that doubles with each message": (GROWING, chat(200)),
    "a content repeated": ("{{ messages[0].content * 1000 }}", chat(1, "x" * 100_000)),
    "a content repeated in a variable": ("{% set x = messages[0].content * 9999 %}", chat(1, "x" * 1_000_000)),
    "a macro that calls itself for each letter": (RECURSIVE, chat(1, "x" * 100_000)),
    "a number of the client's": (
        "{% for i in range(n|default(1)) %}{% for j in range(n|default(1)) %}{% endfor %}{% endfor %}",
        {**chat(1), "chat_template_kwargs": {"n": 99_999}},
    ),
    "a number beyond any range": (
        "{% for i in range(n|default(1)) %}{% endfor %}",
        {**chat(1), "chat_template_kwargs": {"n": 10**12}},
    ),
    "a width of the client's": (
        "{% set x = 'a'.center(n|default(1)) %}",
        {**chat(1), "chat_template_kwargs": {"n": 10**10}},
    ),
    "tools printed for each message": (
        "{% for m in messages %}{% for t in tools or [] %}{{ t|tojson }}{% endfor %}{% endfor %}",
        {**chat(500), "tools": [tool("x" * 10_000)] * 100},
    ),
}
ENOUGH: dict[str, dict[str, Any]] = {
    "one message": chat(1),
    "a long conversation": chat(2000),
    "a long message": chat(1, "x" * 4_000_000),
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    "an image": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:," + "x" * 10**6}}]}]
    },
    "many tools": {**chat(2), "tools": [tool("x" * 1000)] * 128},
    "effort and variables": {
        **chat(2),
        "reasoning_effort": "low",
        "chat_template_kwargs": {"preserve_reasoning": True},
    },
    "no thinking": {**chat(2), "reasoning_effort": "none"},
}


def run(template: str, use: Callable[[RenderTrial], Awaitable[None]]) -> None:
    """Use a trial of a template."""

    async def work() -> None:
        trial = RenderTrial(ChatFormat(template, "the GGUF", "", "<s>", "</s>", ()), at_once=2)
        try:
            await use(trial)
        finally:
            await trial.close()

    asyncio.run(work())


def request(body: dict[str, Any], *, path: str = CHAT) -> EngineRequest:
    return EngineRequest(path, body, stream=False, include_usage=False)


async def refusal(trial: RenderTrial, body: dict[str, Any]) -> RequestRefused | None:
    try:
        await trial.check(request(body))
    except RequestRefused as refused:
        return refused
    return None


@pytest.mark.parametrize(("start", "body"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_conversation_that_takes_too_much_is_refused_and_the_next_is_not(start: str, body: dict[str, Any]) -> None:
    async def use(trial: RenderTrial) -> None:
        for _ in range(2):  # the second time from memory
            refused = await refusal(trial, body)
            assert refused is not None
            assert (refused.status, refused.param) == (400, "messages")
            assert "takes more than the chat template may" in refused.message
        assert await refusal(trial, chat(1)) is None

    run(start + CHATML, use)


def test_ordinary_conversations_pass_however_they_are_made() -> None:
    async def use(trial: RenderTrial) -> None:
        for name, body in ENOUGH.items():
            assert await refusal(trial, body) is None, name
        await trial.check(request({"prompt": "Hello"}, path=COMPLETION))

    run(CHATML, use)


def test_a_template_that_refuses_a_conversation_is_left_to_the_engine() -> None:
    async def use(trial: RenderTrial) -> None:
        assert await refusal(trial, chat(2)) is None

    run("{{ raise_exception('no') }}" + CHATML, use)


def test_a_rendering_ends_with_its_client() -> None:
    async def use(trial: RenderTrial) -> None:
        await trial.check(request(chat(1)))
        work = asyncio.create_task(trial.check(request({**chat(1), "chat_template_kwargs": {"n": 99_999}})))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert time.monotonic() - began < 0.5, "the rendering itself takes a second"
        assert await refusal(trial, chat(1)) is None

    run(TOO_MUCH["a number of the client's"][0] + CHATML, use)


@pytest.mark.torture
def test_a_rendering_that_only_the_engine_does_not_end_costs_its_own_requests(serve_spec: ServeSpec) -> None:
    """The sandbox and the engine differ in what they define: such a template may do anything in the engine alone."""
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    start = "{% if 'a'.isalpha is not defined and messages[0].content|length == 12345 %}" + loops + "{% endif %}"
    spec = replace(serve_spec, chat=replace(serve_spec.chat, template=start + CHATML))
    limits = SupervisorLimits(start_s=120.0, check_interval_s=0.2, stalled_s=2.0)
    with running(spec, limits=limits) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        with pytest.raises(httpx.ReadTimeout):  # its client leaves
            client.post(CHAT, json={**chat(1, "x" * 12345), "max_tokens": 1}, timeout=1)
        wait_for(lambda: client.get("/health").json()["restarts"] == 1, limit_s=60)
        wait_for(lambda: ask(client, stream=False, max_tokens=2).complete, limit_s=60)


def test_hostile_conversations_neither_hang_the_server_nor_delay_others_for_long(serve_spec: ServeSpec) -> None:
    spec = replace(serve_spec, chat=replace(serve_spec.chat, template=LOOPS + CHATML))
    hostile = {**chat(3000), "max_tokens": 1}
    with running(spec) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        engine = server.engine.pid
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post(CHAT, json=hostile), range(4)))
        assert {answer.status_code for answer in answers} == {400}
        assert ask(client, stream=False, max_tokens=2).complete
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json={**hostile, "messages": hostile["messages"][1:]}, timeout=0.2)
        assert ask(client, stream=False, max_tokens=2).complete
        assert server.engine.pid == engine
        assert psutil.Process(engine).cpu_percent(0.1) < 50, "the engine must not render what was refused"
