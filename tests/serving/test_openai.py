"""OpenAI's own client: chats, streams, stop sequences, and errors of the client's classes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from paddock.serving.spec import ServeSpec
from tests.support.serving import RunningServer, running

CHAT: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, serve_spec: ServeSpec) -> Iterator[RunningServer]:
    with running(serve_spec) as now:
        yield now


@pytest.fixture
def client(served: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0, timeout=60) as made:
        yield made


def test_a_chat_is_answered(client: openai.OpenAI, served: RunningServer) -> None:
    answer = client.chat.completions.create(model=served.spec.name, messages=CHAT, temperature=0, max_tokens=24)
    assert answer.choices[0].message.role == "assistant"
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.model == served.spec.name
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == 27  # with the chat template


def test_a_stream_has_the_same_text_and_ends_with_its_token_usage(client: openai.OpenAI, served: RunningServer) -> None:
    whole = client.chat.completions.create(model=served.spec.name, messages=CHAT, temperature=0, max_tokens=24)
    chunks = list(
        client.chat.completions.create(
            model=served.spec.name,
            messages=CHAT,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_stream_without_include_usage_has_no_token_usage(client: openai.OpenAI, served: RunningServer) -> None:
    chunks = client.chat.completions.create(model=served.spec.name, messages=CHAT, max_tokens=4, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_ends_an_answer_and_is_not_in_it(
    client: openai.OpenAI, served: RunningServer, stream: bool
) -> None:
    prompt = "Count from one to ten: one, two, three,"
    answers = client.completions.create(
        model=served.spec.name, prompt=prompt, temperature=0, max_tokens=40, stop=[" six", "\n\n"], stream=stream
    )
    if isinstance(answers, openai.Stream):
        parts = list(answers)
        text, finish = "".join(part.choices[0].text for part in parts), parts[-1].choices[0].finish_reason
    else:
        text, finish = answers.choices[0].text, answers.choices[0].finish_reason
    assert text == " four, five,"
    assert finish == "stop"


def test_the_snapshots_stop_sequences_end_every_chat(client: openai.OpenAI, served: RunningServer) -> None:
    answer = client.chat.completions.create(
        model=served.spec.name, messages=[{"role": "user", "content": "Say hello."}], temperature=0, max_tokens=200
    )
    text = answer.choices[0].message.content or ""
    assert answer.choices[0].finish_reason == "stop"
    assert not any(sequence in text for sequence in served.spec.chat.stop)


def test_content_parts_and_newer_parameter_names_are_accepted(client: openai.OpenAI, served: RunningServer) -> None:
    plain = client.chat.completions.create(model=served.spec.name, messages=CHAT, temperature=0, max_tokens=8)
    newer = client.chat.completions.create(
        model=served.spec.name,
        messages=[
            {"role": "developer", "content": "You are a helpful assistant."},
            {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]},
        ],
        temperature=0,
        max_completion_tokens=8,
    )
    assert newer.choices[0].message.content == plain.choices[0].message.content
    assert newer.usage is not None
    assert plain.usage is not None
    assert newer.usage.prompt_tokens == plain.usage.prompt_tokens


def test_the_list_of_models_is_the_one_that_is_served(client: openai.OpenAI, served: RunningServer) -> None:
    assert [one.id for one in client.models.list()] == [served.spec.name]
    assert client.models.retrieve(served.spec.name).owned_by == "paddock"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_a_bad_request(
    client: openai.OpenAI, served: RunningServer, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model=served.spec.name, messages=[{"role": "user", "content": "word " * 3000}], stream=stream
        )
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role"),
        ({"messages": CHAT, "temperature": -1}, "temperature"),
        ({"messages": CHAT, "max_tokens": 0}, "max_tokens"),
        ({"messages": CHAT, "n": 2}, "n"),
        ({"messages": CHAT, "stop": [""]}, "stop"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_parameter_is_a_bad_request_that_names_it(
    client: openai.OpenAI, fields: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", body=fields, cast_to=object)
    assert str(raised.value.param).startswith(param)
    assert raised.value.type == "invalid_request_error"


def test_without_a_setting_no_web_page_may_use_the_model(served: RunningServer) -> None:
    origin = {"origin": "https://chat.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = httpx.options(f"{served.url}/v1/chat/completions", headers=origin | asked)
    listed = httpx.get(f"{served.url}/v1/models", headers=origin)
    for answer in (preflight, listed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 1e999}', b"\xff", b"[" * 100_000])
def test_a_malformed_body_is_a_bad_request(client: openai.OpenAI, body: bytes) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post(
            "/chat/completions", cast_to=object, options={"headers": {"content-type": "application/json"}}, content=body
        )


def test_log_probabilities_are_given(client: openai.OpenAI, served: RunningServer) -> None:
    answer = client.chat.completions.create(
        model=served.spec.name, messages=CHAT, max_tokens=2, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [2, 2]


def test_an_unknown_path_and_method_have_openais_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.moderations.create(input="text")
    assert json.loads(raised.value.response.text)["error"]["message"]
