"""OpenAI's package gets the same answers from Paddock as from llama-server itself, but for what `cases` lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from paddock.chat.template import ChatFormat
from paddock.gguf.kind import ModelKind
from paddock.serving.spec import ServeSpec
from tests.serving.conformance.cases import DIFFERENCES, EMBEDDINGS, ERRORS, NOT_COMPARED, RANKS, STREAMED, WHOLE, Case
from tests.support.bare_server import bare_server
from tests.support.other_kinds import bert, reranker
from tests.support.serving import running
from tests.support.templates import real_templates
from tests.support.vocabularies import model_with_vocabulary, random_spec, real_vocabulary

Pair = tuple[openai.OpenAI, openai.OpenAI]
"""Clients of Paddock, and of llama-server itself."""


@contextmanager
def both(spec: ServeSpec, *options: str) -> Iterator[Pair]:
    with running(spec) as server, bare_server(spec, *options) as bare:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
            yield client, bare


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A model with Qwen's vocabulary and chat template, for two requests at once."""
    path = model_with_vocabulary(real_vocabulary("qwen2")).write(tmp_path_factory.mktemp("chat") / "model.gguf")
    template = real_templates()["Qwen-Qwen3-0.6B.jinja"]
    chat = ChatFormat(template, "none", "", "", "<|im_end|>", ("<|im_end|>",))
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


def answer(client: openai.OpenAI, case: Case) -> Any:
    """The answer as plain values: a list of chunks if it is streamed."""
    body = dict(case.body)
    if case.endpoint == "rerank":
        return client.post("/rerank", body={"model": "org/random", **body}, cast_to=dict[str, Any])
    if case.endpoint == "embedding":
        return client.embeddings.create(model="org/random", **body).model_dump()
    create: Any = client.chat.completions.create if case.endpoint == "chat" else client.completions.create
    first = "messages" if case.endpoint == "chat" else "prompt"
    streams = {name: body.pop(name) for name in ("stream", "stream_options") if name in body}
    made = create(model="org/random", **{first: body.pop(first)}, **streams, extra_body=body)
    return [chunk.model_dump() for chunk in made] if streams else made.model_dump()


def compared(value: Any) -> Any:
    """The value without the fields that are not compared, and without the model's name, which differs."""
    if isinstance(value, dict):
        left_out = {*NOT_COMPARED, "model"}
        return {name: compared(one) for name, one in value.items() if name not in left_out}
    return [compared(one) for one in value] if isinstance(value, list) else value


def without_cut_characters(value: Any) -> Any:
    """The value with the difference `cut character` applied to a whole answer of llama-server."""
    for choice in value.get("choices", []) if isinstance(value, dict) else []:
        holder = choice.get("message", choice)
        for name in ("content", "text"):
            if choice.get("finish_reason") == "length" and isinstance(holder.get(name), str):
                holder[name] = holder[name].rstrip("\ufffd")
    return value


@pytest.mark.parametrize("case", [*WHOLE, *STREAMED], ids=lambda case: case.name)
def test_chats_and_completions(chats: Pair, case: Case) -> None:
    ours, bare = (answer(client, case) for client in chats)
    assert compared(ours) == without_cut_characters(compared(bare))
    assert {one["model"] for one in (ours if isinstance(ours, list) else [ours])} == {"org/random"}


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embeddings(embeddings: Pair, case: Case) -> None:
    ours, bare = (answer(client, case) for client in embeddings)
    assert compared(ours) == compared(bare)


@pytest.mark.parametrize("case", RANKS, ids=lambda case: case.name)
def test_ranks(ranks: Pair, case: Case) -> None:
    ours, bare = (answer(client, case) for client in ranks)
    assert compared(ours) == compared(bare)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_errors_have_the_same_status_and_openais_form(chats: Pair, case: Case) -> None:
    statuses, bodies = [], []
    for client in chats:
        with pytest.raises(openai.APIStatusError) as raised:
            answer(client, case)
        statuses.append(raised.value.status_code)
        bodies.append(raised.value.body)
    assert statuses == [case.status, case.bare_status or case.status]
    assert set(bodies[0]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]  # a dict
    assert all(body["message"] for body in bodies)  # type: ignore[index]  # the same


def test_both_list_one_model(chats: Pair) -> None:
    ours, bare = (client.models.list() for client in chats)
    assert (len(ours.data), ours.data[0].id, ours.data[0].object) == (len(bare.data), "org/random", bare.data[0].object)


def test_every_difference_has_its_reason() -> None:
    assert all(DIFFERENCES.values())
    assert all(NOT_COMPARED.values())
