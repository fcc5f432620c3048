"""Fields of requests with the real model: what is accepted changes the answer, on a template that uses everything.

The model is small and its answers make no sense; where an answer cannot show that a field was honoured, the number of
the prompt's tokens does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from paddock.serving.spec import ServeSpec
from tests.support.chat_template import UNRECOGNIZED_CALLS, with_demanding_template
from tests.support.serving import RunningServer, running

ASK: dict[str, Any] = {"role": "user", "content": "Name two colours."}
ORIGIN = "https://chat.example"


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": None, "parameters": schema, "strict": True}}


LOOK, PING = tool("look", place={"type": "string", "maxLength": 5}), {"type": "function", "function": {"name": "ping"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"place": "barn"}'}}
FOUND = {"role": "tool", "tool_call_id": "call_1", "content": "a horse"}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def served(parallel_serve_spec: ServeSpec) -> Iterator[RunningServer]:
    with running(with_demanding_template(parallel_serve_spec), cors_origins=(ORIGIN,)) as now:
        yield now


@pytest.fixture(scope="module")
def client(served: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as made:
        yield made


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json={"temperature": 0, "max_tokens": 4, **body})
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    return post(client, "/v1/chat/completions", {"messages": [ASK], **fields})


def message(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    value: dict[str, Any] = chat(client, **fields)["choices"][0]["message"]
    return value


def prompt_tokens(client: httpx.Client, *messages: dict[str, Any], **fields: Any) -> int:
    return int(chat(client, messages=list(messages), max_tokens=1, **fields)["usage"]["prompt_tokens"])


def refused(client: httpx.Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post("/v1/chat/completions", json={"messages": [ASK], "max_tokens": 1, **fields})
    return answer.status_code, answer.json().get("error", {})


# Tools

BARN = {"role": "user", "content": "barn"}
SHOWN = [BARN, {"role": "assistant", "content": None, "tool_calls": [CALL]}, BARN]
"""A chat after which the model calls `look` again."""


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("auto", "look"),
        ("required", "look"),
        ({"type": "function", "function": {"name": "ping"}}, "ping"),
        ("none", None),
    ],
    ids=["auto", "required", "named", "none"],
)
def test_a_tool_is_called_as_tool_choice_says(client: httpx.Client, choice: Any, name: str | None) -> None:
    answer = message(client, messages=SHOWN, tools=[PING, LOOK], tool_choice=choice, max_tokens=40)
    calls = [call["function"] for call in answer.get("tool_calls", [])]
    assert [call["name"] for call in calls] == ([name] if name else [])
    if name == "look":
        assert json.loads(calls[0]["arguments"]) == {"place": "barn"}
        assert answer["tool_calls"][0]["id"]


def test_an_answer_without_the_call_that_is_required_never_ends_by_itself(client: httpx.Client) -> None:
    answer = chat(client, tools=[PING], tool_choice="required", ignore_eos=False, max_tokens=20)["choices"][0]
    assert answer["finish_reason"] == "length" or answer["message"]["tool_calls"]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=["null", "left out", "empty"])
def test_the_second_step_of_an_agent_is_answered(client: httpx.Client, content: dict[str, Any]) -> None:
    called = {"role": "assistant", "tool_calls": [CALL], **content}
    shown = prompt_tokens(client, ASK, called, FOUND, tools=[LOOK])
    quiet = prompt_tokens(client, ASK, {"role": "assistant", "content": ""}, FOUND, tools=[LOOK])
    assert shown > quiet + 10  # the template goes through the arguments as a mapping


def test_tool_calls_that_the_engine_does_not_recognize_come_as_text(serve_spec: ServeSpec) -> None:
    spec = replace(serve_spec, chat=replace(serve_spec.chat, template=UNRECOGNIZED_CALLS))
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    with running(spec) as served, httpx.Client(base_url=served.url, timeout=60) as client:
        assert message(client, messages=[ASK, called, FOUND], tools=[LOOK], max_tokens=2)["content"]
        assert refused(client, tools=[LOOK], tool_choice="none")[0] == 200
        status, error = refused(client, tools=[LOOK], tool_choice="required")
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", "tool_choice")


# The form of the output


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
    ],
    ids=["OpenAI's", "llama.cpp's", "json_schema"],
)
def test_an_answer_follows_the_schema(client: httpx.Client, form: dict[str, Any]) -> None:
    assert json.loads(message(client, **form, max_tokens=40)["content"])["a"] in {1, 2}


def test_an_answer_in_json_begins_as_an_object_and_a_grammar_is_followed(client: httpx.Client) -> None:
    assert message(client, response_format={"type": "json_object"})["content"].lstrip().startswith(("{", "```json"))
    assert message(client, response_format={"type": "text"}) == message(client)
    assert message(client, grammar='root ::= "otter" | "heron"')["content"] in {"otter", "heron"}
    assert message(client, grammar="") == message(client)


def test_a_grammar_that_is_none_is_a_bad_request_that_names_it(client: httpx.Client) -> None:
    status, error = refused(client, grammar='root ::= "a" |||| (')
    assert (status, error["param"]) == (400, "grammar")
    assert "site-packages" not in json.dumps(error)


# Sampling


def test_log_probabilities_have_as_many_alternatives_as_are_asked_for(client: httpx.Client) -> None:
    for fields, number in (({}, 1), ({"top_logprobs": 0}, 1), ({"top_logprobs": 20}, 20), ({"top_logprobs": None}, 1)):
        tokens = chat(client, logprobs=True, max_tokens=2, **fields)["choices"][0]["logprobs"]["content"]
        assert [len(token["top_logprobs"]) for token in tokens] == [number] * 2
    completion = post(client, "/v1/completions", {"prompt": "Hello", "logprobs": 0, "max_tokens": 2})
    assert len(completion["choices"][0]["logprobs"]["content"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_n_answers_are_given_at_once(client: httpx.Client, stream: bool) -> None:
    body = {"messages": [ASK], "max_tokens": 4, "n": 2, "stream": stream}
    answer = client.post("/v1/chat/completions", json=body)
    if not stream:
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]
        return
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert {choice["index"] for choice in choices if choice["finish_reason"]} == {0, 1}


def test_more_answers_than_the_engine_gives_at_once_are_refused(client: httpx.Client) -> None:
    status, error = refused(client, n=3)
    assert (status, error["param"]) == (400, "n")
    assert "2 answers" in error["message"]


def test_a_token_that_is_banned_does_not_occur_and_one_that_is_favoured_does(client: httpx.Client) -> None:
    first = chat(client, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0]
    for bias in ({str(first["id"]): -100}, [[first["id"], False]]):
        other = chat(client, logprobs=True, max_tokens=1, logit_bias=bias)["choices"][0]["logprobs"]["content"][0]
        assert other["id"] != first["id"]
    favoured = chat(client, logprobs=True, max_tokens=1, logit_bias={"504": 100})["choices"][0]["logprobs"]
    assert favoured["content"][0]["id"] == 504


def test_a_seed_decides_a_random_answer(client: httpx.Client) -> None:
    def answer(seed: int) -> str:
        return str(message(client, seed=seed, temperature=1.5, top_k=-1, max_tokens=12)["content"])

    assert answer(2**32 - 2) == answer(2**32 - 2) != answer(7)


@pytest.mark.parametrize(
    "fields",
    [
        {"samplers": []},
        {"mirostat": 1, "mirostat_tau": 0, "mirostat_eta": 100},
        {"mirostat": 2, "mirostat_tau": 100, "mirostat_eta": 0},
        {"dry_multiplier": 100, "dry_base": 100, "dry_allowed_length": 0, "dry_penalty_last_n": -1},
        {"repeat_last_n": 2**31 - 1, "repeat_penalty": 10, "dry_penalty_last_n": 2**31 - 1, "dry_multiplier": 1},
        {"top_n_sigma": 0, "min_keep": 1000, "xtc_probability": 1, "xtc_threshold": 0, "temperature": 10},
        {"top_p": 0, "min_p": 1, "typical_p": 0, "top_k": 1, "temperature": 1e-30},
        {"dynatemp_range": 10, "dynatemp_exponent": 100, "temperature": 10},
        {"ignore_eos": True, "t_max_predict_ms": 1, "cache_prompt": False, "timings_per_token": True},
        {"logit_bias": {str(token): -100 for token in range(1024)}},
        {"stop": [f"{number}" * 500 for number in range(1, 10)]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_the_limits_of_sampling_are_answered(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert chat(client, temperature=fields.pop("temperature", 1), **fields)["usage"]["completion_tokens"] > 0


# Messages


def test_a_system_message_is_the_users_where_the_template_knows_none(client: httpx.Client) -> None:
    folded = prompt_tokens(client, {"role": "system", "content": "Be brief."}, ASK)
    assert folded == prompt_tokens(client, {"role": "developer", "content": "Be brief."}, ASK)
    assert folded == prompt_tokens(client, {"role": "user", "content": f"Be brief.\n{ASK['content']}"})


def test_a_conversation_that_the_template_refuses_is_a_bad_request(client: httpx.Client) -> None:
    status, error = refused(client, messages=[ASK, ASK])
    assert (status, error["param"]) == (400, "messages")
    assert error["message"] == "the chat template refuses this conversation: roles must alternate"


def test_names_and_parts_reach_the_template(client: httpx.Client) -> None:
    assert prompt_tokens(client, {**ASK, "name": "Mara"}) == prompt_tokens(
        client, {"role": "user", "content": f"Mara: {ASK['content']}"}
    )
    parts = [{"type": "text", "text": "Name two"}, {"type": "text", "text": "colours."}]
    assert prompt_tokens(client, {"role": "user", "content": parts}) == prompt_tokens(
        client, {"role": "user", "content": "Name two\ncolours."}
    )


def test_a_prefilled_answer_is_continued(client: httpx.Client) -> None:
    began = {"role": "assistant", "content": "The two colours are red and"}
    plain = message(client, messages=[ASK, began])
    assert message(client, messages=[ASK, began], continue_final_message=True) == plain
    assert prompt_tokens(client, ASK, began) < prompt_tokens(client, ASK, began, ASK)
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        status, error = refused(client, messages=[ASK, began], **fields)
        assert (status, error["param"]) == (400, next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [{"enable_thinking": True}, {"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "high"}],
    ids=lambda fields: next(iter(fields)),
)
def test_thinking_is_switched_by_the_request(client: httpx.Client, fields: dict[str, Any]) -> None:
    plain = prompt_tokens(client, ASK, enable_thinking=False)
    assert prompt_tokens(client, ASK, **fields) > plain == prompt_tokens(client, ASK, reasoning_effort="none")


@pytest.mark.parametrize("prompt", ["", [1, 2, 3], ["Hello"], [[1, 2, 3]]], ids=str)
def test_a_prompt_may_be_empty_or_tokens(client: httpx.Client, prompt: Any) -> None:
    assert post(client, "/v1/completions", {"prompt": prompt})["choices"]


# Paths, content types and origins


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/rerank"])
def test_a_language_model_says_which_paths_it_has(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"input": "a"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "unsupported_endpoint"
    assert "a language model" in error["message"]
    assert "/v1/chat/completions" in error["message"]


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/responses/a", "/v1/messages", "/v1/audio/speech", "/v1/images/generations"]
)
def test_a_path_that_is_not_served_is_refused_by_name(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported_endpoint")
    if path in {"/v1/responses", "/v1/messages"}:
        assert "use /v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain", "origin": ORIGIN},
        {"content-type": "multipart/form-data; boundary=application/json"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_a_body_that_is_not_said_to_be_json_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/chat/completions", content=json.dumps({"messages": [ASK]}), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["type"] == "invalid_request_error"


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return client.options("/v1/chat/completions", headers={"origin": origin, **asked})


def test_pages_of_the_named_origins_may_use_the_model(client: httpx.Client) -> None:
    answer = preflight(client, ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert preflight(client, "https://evil.example").status_code == 403
    body = {"messages": [ASK], "max_tokens": 1}
    for content, status in ((body, 200), ({**body, "n": 0}, 400)):
        whole = client.post("/v1/chat/completions", json=content, headers={"origin": ORIGIN})
        assert (whole.status_code, whole.headers["access-control-allow-origin"]) == (status, ORIGIN)
    other = client.post("/v1/chat/completions", json=body, headers={"origin": "https://evil.example"})
    assert (other.status_code, other.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in other.headers
