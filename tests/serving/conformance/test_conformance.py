"""OpenAI's package gets the same answers from Paddock as from llama-server itself, but for what `cases` lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from paddock.chat.template import ChatFormat
from paddock.gguf.kind import ModelKind
from paddock.serving.spec import ServeSpec
from tests.serving.conformance.cases import (
    DIFFERENCES,
    EMBEDDINGS,
    ERRORS,
    NOT_COMPARED,
    RANKS,
    STREAMED,
    TEMPLATE,
    WHOLE,
    Case,
)
from tests.support.bare_server import bare_server
from tests.support.other_kinds import bert, reranker
from tests.support.serving import running
from tests.support.vocabularies import model_with_vocabulary, random_spec, real_vocabulary

Pair = tuple[openai.OpenAI, openai.OpenAI]
"""Clients of Paddock, and of llama-server itself."""


@contextmanager
def both(spec: ServeSpec, *options: str) -> Iterator[Pair]:
    with (
        running(spec) as server,
        bare_server(spec, *options) as bare_url,
        client_of(f"{server.url}/v1") as ours,
        client_of(bare_url) as bare,
    ):
        yield ours, bare


def client_of(url: str) -> openai.OpenAI:
    """A client that opens a connection for each request: llama-server closes them after some requests."""
    headers = {"connection": "close"}
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60, default_headers=headers)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A model with a real vocabulary and a chat template that knows tools and thoughts, for two requests at once."""
    path = model_with_vocabulary(real_vocabulary("gpt-2")).write(tmp_path_factory.mktemp("chat") / "model.gguf")
    chat = ChatFormat(TEMPLATE, "none", "", "", "<|im_end|>", ("<|im_end|>",))
    with both(replace(random_spec(path, parallel=2), chat=chat)) as pair:
        yield pair


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path = bert().write(tmp_path_factory.mktemp("embedding") / "model.gguf")
    with both(replace(random_spec(path), kind=ModelKind.EMBEDDING), "--embedding") as pair:
        yield pair


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path = reranker().write(tmp_path_factory.mktemp("reranker") / "model.gguf")
    with both(replace(random_spec(path), kind=ModelKind.RERANKER), "--reranking") as pair:
        yield pair


def answers(pair: Pair, case: Case) -> tuple[Any, Any]:
    """The answers of Paddock and of llama-server."""
    ours, bare = pair
    return answer(ours, case.endpoint, case.body), answer(bare, case.endpoint, case.body | (case.bare or {}))


def answer(client: openai.OpenAI, endpoint: str, requested: dict[str, Any]) -> Any:
    """An answer as plain values: a list of chunks if it is streamed."""
    body = {"model": "org/random", **requested}
    if endpoint in {"rerank", "embeddings"}:  # as they are: the package decodes base64
        return client.post(f"/{endpoint}", body=body, cast_to=dict[str, Any])
    create: Any = client.chat.completions.create if endpoint == "chat" else client.completions.create
    of_package = {"model", "messages", "prompt", "stream", "stream_options"}
    named = {name: value for name, value in body.items() if name in of_package}
    made = create(**named, extra_body={name: value for name, value in body.items() if name not in of_package})
    return [chunk.model_dump() for chunk in made] if "stream" in body else made.model_dump()


def compared(value: Any) -> Any:
    """The value without the fields that are not compared, and without the model's name, which differs. The chunks of
    several answers come in any order, so they are sorted by answer."""
    if isinstance(value, dict):
        left_out = {*NOT_COMPARED, "model"}
        return {name: compared(one) for name, one in value.items() if name not in left_out}
    if isinstance(value, list):
        values = [compared(one) for one in value]
        is_stream = any(isinstance(one, dict) and one.get("object", "").endswith(".chunk") for one in values)
        return sorted(values, key=_answer_number) if is_stream else values
    return value


def _answer_number(chunk: dict[str, Any]) -> float:
    """Which of several answers a chunk belongs to; the chunk with the token usage is the last."""
    return chunk["choices"][0]["index"] if chunk["choices"] else math.inf


def without_cut_characters(value: Any) -> Any:
    """The value with the difference `cut character` applied to a whole answer of llama-server."""
    for choice in value.get("choices", []) if isinstance(value, dict) else []:
        holder = choice.get("message", choice)
        for name in ("content", "text"):
            if choice.get("finish_reason") == "length" and isinstance(holder.get(name), str):
                holder[name] = re.sub(" ?\ufffd+$" if name == "text" else " ?\ufffd*$", "", holder[name])
    return value


@pytest.mark.parametrize("case", [*WHOLE, *STREAMED], ids=lambda case: case.name)
def test_chats_and_completions(chats: Pair, case: Case) -> None:
    ours, bare = answers(chats, case)
    assert compared(ours) == without_cut_characters(compared(bare))
    assert {one["model"] for one in (ours if isinstance(ours, list) else [ours])} == {"org/random"}


@pytest.mark.parametrize(
    ("name", "field"),
    [("a required call", "tool_calls"), ("thinking", "reasoning_content"), ("json_schema", "content")],
)
def test_the_cases_get_the_answers_that_they_are_about(chats: Pair, name: str, field: str) -> None:
    (case,) = (case for case in WHOLE if case.name == name)
    message = answer(chats[0], case.endpoint, case.body)["choices"][0]["message"]
    assert [one for one in ("content", "tool_calls", "reasoning_content") if message.get(one)] == [field]
    for call in message["tool_calls"] or []:
        assert (call["function"]["name"], set(json.loads(call["function"]["arguments"])) <= {"utc"}) == ("time", True)
    if field == "content":
        assert set(json.loads(message["content"])) == {"colour", "warm"}


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embeddings(embeddings: Pair, case: Case) -> None:
    ours, bare = answers(embeddings, case)
    assert compared(ours) == compared(bare)


@pytest.mark.parametrize("case", RANKS, ids=lambda case: case.name)
def test_ranks(ranks: Pair, case: Case) -> None:
    ours, bare = answers(ranks, case)
    assert compared(ours) == compared(bare)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_an_error_has_openais_form_and_the_engines_status(chats: Pair, case: Case) -> None:
    ours, bare = chats
    with pytest.raises(openai.APIStatusError) as raised:
        answer(ours, case.endpoint, case.body)
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "param", "code"}
    assert (raised.value.status_code, raised.value.type) == (case.status, "invalid_request_error")
    try:
        answer(bare, case.endpoint, case.body)
        bare_status = 200
    except openai.APIStatusError as error:
        bare_status = error.status_code
    assert bare_status == (case.bare_status or case.status)


def test_both_list_one_model(chats: Pair) -> None:
    ours, bare = (client.models.list() for client in chats)
    assert (len(ours.data), ours.data[0].id, ours.data[0].object) == (len(bare.data), "org/random", bare.data[0].object)


def test_every_difference_has_its_reason() -> None:
    assert all(DIFFERENCES.values())
    assert all(NOT_COMPARED.values())
