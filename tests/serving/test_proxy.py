"""Forward the engine's events as they are, however the engine's connection cuts them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from starlette.types import Message

from paddock.serving.admission import AdmissionQueue
from paddock.serving.http.proxy import Proxy
from paddock.serving.metrics import Metrics
from paddock.serving.observations import Observations, RunningAnswer
from paddock.serving.requests.parse import AdmittedRequest, RequestRefused
from paddock.serving.requests.tool_format import ToolFormat
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.revision import ServedRevision
from paddock.serving.trial.render_trial import RenderTrial
from paddock.serving.trial.suspects import Suspects
from paddock.serving.usage import UsageCounter
from tests.serving.test_requests import SPEC

TEXTS = ["a", "é", "日本", "\u2028", "\x85", "\x0b", "😀", "\r\n", "data: [DONE]\n\n", '"'] * 3
"""Some are line breaks for Python, but not in a stream of events."""
DONE = b"data: [DONE]\n\n"


def event(text: str, **more: Any) -> bytes:
    value = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


class Pieces(httpx.AsyncByteStream):
    def __init__(self, content: bytes, size: int) -> None:
        self._pieces = [content[start : start + size] for start in range(0, len(content), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@dataclass(eq=False)
class StreamingRevision:
    """The part of a served revision that the proxy uses, with a function as its engine."""

    client: httpx.AsyncClient
    spec: ServeSpec = SPEC
    slots: int = 1
    label: str = SPEC.label
    usage: UsageCounter = field(default_factory=UsageCounter)
    suspects: Suspects = field(default_factory=Suspects)
    render_trial: RenderTrial = field(default_factory=lambda: RenderTrial(SPEC.chat, at_once=1))
    observations: Observations = field(default_factory=Observations)

    @property
    def tool_format(self) -> ToolFormat:
        return ToolFormat(self.client)

    def observe(self, arrived: float) -> AbstractContextManager[RunningAnswer]:
        return self.observations.answer(0, arrived)


def forwarded(content: bytes, *, size: int = 1 << 16, content_type: str = "text/event-stream") -> list[str]:
    """The data of the events that a client gets when the engine streams `content` in pieces of `size` bytes."""
    sent = bytearray()

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))

    def engine(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": content_type}, stream=Pieces(content, size))

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(engine), base_url="http://engine") as client:
            queue = AdmissionQueue[ServedRevision](max_waiting=0)
            revision = StreamingRevision(client)
            queue.use(cast(ServedRevision, revision))
            body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
            request = AdmittedRequest("/v1/chat/completions", json.dumps(body).encode(), SPEC)
            try:
                await Proxy(queue, Metrics(model="m", server="s")).answer(request, send)
            finally:
                await revision.render_trial.close()

    asyncio.run(scenario())
    events = sent.decode().split("\n\n")
    assert events.pop() == ""
    return [event.removeprefix("data: ") for event in events]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 16])
def test_every_text_arrives_whole_however_the_stream_is_cut(size: int) -> None:
    *events, last = forwarded(b"".join(map(event, TEXTS)) + DONE, size=size)
    assert last == "[DONE]"
    assert [json.loads(data)["choices"][0]["delta"]["content"] for data in events] == TEXTS


def test_comments_other_fields_and_carriage_returns_are_no_data() -> None:
    content = b": ping\n\nevent: message\nid: 1\nretry: 5\n" + event("a").replace(b"\n", b"\r\n") + DONE
    assert len(forwarded(content)) == 2


@pytest.mark.parametrize(
    "rest",
    [b"", event("b")[:-1], event("b")[:-9] + b"\n\n", b"data: no JSON\n\n"],
    ids=["an end without [DONE]", "an event without its end", "half an event", "data that is no JSON"],
)
def test_a_stream_that_breaks_off_ends_with_an_error(rest: bytes) -> None:
    first, last = forwarded(event("a") + rest)
    assert json.loads(first)["choices"][0]["delta"]["content"] == "a"
    assert json.loads(last)["error"]["code"] == "engine_died"


@pytest.mark.parametrize("content_type", ["text/html", ""])
def test_an_answer_that_is_no_stream_of_events_is_an_error(content_type: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        forwarded(event("a") + DONE, content_type=content_type)
    assert refused.value.status == 502
