"""Requests that were running when the engine died are remembered; those that end it twice are refused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from paddock.serving.requests.parse import EngineRequest, RequestRefused
from paddock.serving.spec import ServeSpec
from paddock.serving.trial.suspects import Suspects, fingerprints
from tests.serving.test_service import QUICK
from tests.support.clock import FakeClock
from tests.support.serving import RunningServer, ask, has_restarted, running
from tests.support.waiting import wait_for


def chat(text: str, **fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0.7, "stop": ["<|im_end|>"], **fields}
    return EngineRequest("/v1/chat/completions", body, stream=False, include_usage=False)


class Engine:
    """Suspects of an engine that ends as a test says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.suspects = Suspects(usual_stops=("<|im_end|>",), clock=self.clock)

    async def answer(self, request: EngineRequest) -> None:
        self.suspects.check(request)
        async with self.suspects.running(request) as run:
            run.answered = True

    async def die_of(self, *requests: EngineRequest) -> bool:
        """Lose the engine while requests run. Whether that is explained."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run_until_lost(request)) for request in requests]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            explained = self.suspects.engine_lost()
            for task in tasks:
                task.cancel()
        return explained

    async def _run_until_lost(self, request: EngineRequest) -> None:
        async with self.suspects.running(request):
            await asyncio.Event().wait()

    def refuses(self, request: EngineRequest) -> bool:
        try:
            self.suspects.check(request)
        except RequestRefused as refused:
            return (refused.status, refused.code) == (400, "ended_engine")
        return False


def scenario(test: Callable[[Engine], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def inside() -> None:
            await test(Engine())

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@scenario
async def test_a_prompt_that_ends_the_engine_twice_is_refused(engine: Engine) -> None:
    assert not await engine.die_of(chat("a"))
    assert not engine.refuses(chat("a"))
    assert await engine.die_of(chat("a"))
    assert engine.refuses(chat("a", temperature=0.1))
    assert not engine.refuses(chat("b"))


@scenario
async def test_what_native_code_parses_is_refused_with_any_prompt(engine: Engine) -> None:
    await engine.die_of(chat("a", logit_bias={"1": 2}))
    assert await engine.die_of(chat("b", logit_bias={"1": 2}))
    assert engine.refuses(chat("c", logit_bias={"1": 2}))
    assert not engine.refuses(chat("a"))
    assert not engine.refuses(chat("c", logit_bias={"1": 3}))


@scenario
async def test_a_request_that_is_answered_is_cleared(engine: Engine) -> None:
    await engine.die_of(chat("a"), chat("killer"))
    await engine.answer(chat("a"))
    await engine.die_of(chat("killer"))
    await engine.die_of(chat("a"))
    assert engine.refuses(chat("killer"))
    assert not engine.refuses(chat("a"))


@scenario
async def test_suspects_run_one_at_a_time(engine: Engine) -> None:
    await engine.die_of(chat("a"), chat("b"))
    assert await engine.die_of(chat("a"), chat("b"))  # the second waits for the first
    assert [engine.refuses(chat(text)) for text in "ab"] == [True, False]


@scenario
async def test_a_request_whose_client_left_is_suspect_until_another_is_answered(engine: Engine) -> None:
    for _ in range(2):
        with suppress(TimeoutError):
            async with asyncio.timeout(0), engine.suspects.running(chat("slow")):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        engine.suspects.engine_lost()
    assert engine.refuses(chat("slow"))
    with suppress(TimeoutError):
        async with asyncio.timeout(0), engine.suspects.running(chat("left")):
            await asyncio.Event().wait()
    await engine.answer(chat("b"))
    assert not engine.suspects.engine_lost()
    assert not await engine.die_of(chat("left"))


@scenario
async def test_different_requests_explain_losses_of_an_engine_that_had_answered_others(engine: Engine) -> None:
    for number in range(5):
        await engine.answer(chat("harmless"))
        assert await engine.die_of(chat(f"killer {number}"))
    assert not await engine.die_of(chat("another"))  # an engine that never answers has another cause


@scenario
async def test_a_request_that_never_reached_the_engine_is_no_suspect(engine: Engine) -> None:
    for _ in range(3):
        with suppress(httpx.ConnectError):
            async with engine.suspects.running(chat("a")):
                raise httpx.ConnectError("it is being restarted")
        engine.suspects.engine_lost()
    assert not engine.refuses(chat("a"))


@scenario
async def test_a_refusal_ends_after_an_hour_and_few_are_remembered(engine: Engine) -> None:
    for _ in range(2):
        await engine.die_of(chat("a"))
    engine.clock.now_s += 3599
    assert engine.refuses(chat("a"))
    engine.clock.now_s += 2
    assert not engine.refuses(chat("a"))
    for number in range(2000):
        await engine.die_of(chat(f"{number}"))
    assert len(engine.suspects) <= 1024


TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]}


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({}, 1),
        ({"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "grammar": ""}, 1),
        ({"tools": TOOLS}, 2),
        ({"grammar": 'root ::= "a"'}, 2),
        ({"stop": ["<|im_end|>", "\n"]}, 2),
        ({"stop": "x"}, 2),
        ({"logit_bias": {"1": 2}}, 2),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 2),
        (IMAGE, 2),
    ],
    ids=lambda value: ", ".join(value) or "nothing" if isinstance(value, dict) else str(value),
)
def test_a_request_has_a_fingerprint_of_its_prompt_and_one_of_what_is_parsed(
    fields: dict[str, Any], number: int
) -> None:
    assert len(fingerprints(chat("a", **fields).body, ("<|im_end|>",))) == number


def abort_during(served: RunningServer, content: str) -> None:
    """Abort the engine while it answers a request."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1000, "stream": True}
    with (
        httpx.Client(base_url=served.url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        served.engine.send_signal(signal.SIGABRT)
        assert "engine_died" in "".join(lines)


def test_a_request_that_ends_the_engine_again_is_refused_and_is_no_second_strike(serve_spec: ServeSpec) -> None:
    with running(serve_spec, limits=replace(QUICK, strikes=2)) as served:
        for restarts in (1, 2):
            abort_during(served, "Count to a thousand.")
            wait_for(partial(has_restarted, served.url, restarts))
        with httpx.Client(base_url=served.url, timeout=60) as client:
            refused = ask(client, stream=False, content="Count to a thousand.")
            assert (refused.status, (refused.error or {})["code"]) == (400, "ended_engine")
            assert ask(client, stream=False, content="Name a colour.").complete
