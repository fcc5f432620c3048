"""Requests as the engine gets them: the profile's sampling, the snapshot's stop sequences, normalized names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddock.chat.template import ChatFormat
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.gguf.kind import ModelKind
from paddock.planning.profile import PROFILES
from paddock.serving.engine.llama_server import llama_server_arguments
from paddock.serving.refusal import RequestRefused
from paddock.serving.requests.fields import policy
from paddock.serving.requests.fields.chat import ChatRequest
from paddock.serving.requests.fields.completion import CompletionRequest
from paddock.serving.requests.parse import ENDPOINTS, EngineRequest, parse
from paddock.serving.spec import ServeSpec
from tests.support.chat_template import with_demanding_template

SPEC = ServeSpec(
    name="org/name",
    revision="b" * 40,
    variant="Q8_0",
    quantization="Q8_0",
    file=Path("/nowhere.gguf"),
    chat=ChatFormat("{{ messages }}", "family", "", "<s>", "</s>", ("<|im_end|>", "<|im_start|>user")),
    parameters=Parameters(n_ctx=2048, n_threads=2),
    memory=Memory(1, 1, 1, 1, "engine"),
    profile=PROFILES["roleplay"],
    vocabulary_tokens=4096,
)
HELLO = [{"role": "user", "content": "Hello"}]


def chat(spec: ServeSpec = SPEC, /, **fields: Any) -> EngineRequest:
    body = {"messages": HELLO, **fields}
    return parse("/v1/chat/completions", json.dumps(body).encode(), spec)


def completion(**fields: Any) -> EngineRequest:
    return parse("/v1/completions", json.dumps({"prompt": "Hello", **fields}).encode(), SPEC)


def test_sampling_parameters_that_a_client_omits_are_the_profiles() -> None:
    assert {name: chat().body[name] for name in ("temperature", "top_p", "min_p", "repeat_penalty")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.05,
        "repeat_penalty": 1.05,
    }
    assert chat(temperature=0, top_p=None).body["temperature"] == 0
    assert chat(temperature=0, top_p=None).body["top_p"] == 1.0


def test_the_snapshots_stop_sequences_follow_the_clients_in_a_chat_only() -> None:
    assert chat().body["stop"] == ["<|im_end|>", "<|im_start|>user"]
    assert chat(stop="END").body["stop"] == ["END", "<|im_end|>", "<|im_start|>user"]
    assert chat(stop=["<|im_end|>"]).body["stop"] == ["<|im_end|>", "<|im_start|>user"]
    assert "stop" not in completion().body


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 7}, 7),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None}, None),
    ],
)
def test_both_names_of_the_token_limit_are_normalized(fields: dict[str, Any], max_tokens: int | None) -> None:
    body = chat(**fields).body
    assert body.get("max_tokens") == max_tokens
    assert "max_completion_tokens" not in body


def test_a_completion_without_a_token_limit_gets_openais_default() -> None:
    assert completion().body["max_tokens"] == 16


def test_a_completion_without_a_limit_is_not_limited() -> None:
    assert "max_tokens" not in completion(max_tokens=-1).body


def test_parameters_of_llama_cpp_beyond_openais_pass_through() -> None:
    body = chat(grammar='root ::= "yes"', top_k=5, chat_template_kwargs={"enable_thinking": False}).body
    assert body["grammar"] == 'root ::= "yes"'
    assert body["top_k"] == 5
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_engine_is_always_asked_for_the_token_usage_of_a_stream() -> None:
    quiet, requested = chat(stream=True), chat(stream=True, stream_options={"include_usage": True})
    assert quiet.body["stream_options"] == requested.body["stream_options"] == {"include_usage": True}
    assert (quiet.include_usage, requested.include_usage) == (False, True)
    assert "stream_options" not in chat(stream_options={"include_usage": True}).body


@pytest.mark.parametrize("model", ["org/name", f"org/name@{'b' * 40}", None])
def test_the_model_may_be_named_with_its_revision(model: str | None) -> None:
    assert chat(model=model).body["model"] == "org/name"


@pytest.mark.parametrize("model", ["", "org/other", f"org/name@{'c' * 40}"])
def test_another_model_is_refused(model: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        chat(model=model)
    assert (refused.value.status, refused.value.param) == (404, "model")


def test_null_is_the_same_as_leaving_a_field_out() -> None:
    names = {*ChatRequest.model_fields, *policy.WITHOUT_EFFECT, *policy.ONLY, *policy.REFUSED} - {"messages"}
    assert chat(**dict.fromkeys(names)).body == chat().body
    nulls = dict.fromkeys({*CompletionRequest.model_fields, "tools", "functions"} - {"prompt"})
    assert completion(**nulls).body == completion().body
    nested = chat(
        messages=[{**HELLO[0], "name": None, "tool_calls": None, "tool_call_id": None, "refusal": None}],
        stream_options={"include_usage": None},
        response_format={"type": "text", "json_schema": None, "schema": None},
        chat_template_kwargs={"enable_thinking": None},
    )
    assert nested.body == {**chat().body, "response_format": {"type": "text"}}


def test_fields_that_cannot_change_an_answer_are_accepted_and_not_forwarded() -> None:
    fields = {"user": "a", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "a"}
    fields |= {"safety_identifier": "a", "modalities": ["text"], "verbosity": "medium", "echo": False, "best_of": 1}
    assert chat(**fields).body == chat().body


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"5": -100, "6": 1.5}, [(5, -100.0), (6, 1.5)]),
        ([[5, False], ["6", 1]], [(5, False), (6, 1.0)]),
        ({}, []),
    ],
)
def test_biases_of_either_form_are_pairs_of_token_and_bias(given: Any, sent: list[tuple[int, float]]) -> None:
    assert chat(logit_bias=given).body["logit_bias"] == sent


def test_windows_that_the_engine_would_allocate_are_at_most_the_context() -> None:
    body = chat(repeat_last_n=2**31 - 1, dry_penalty_last_n=-1).body
    assert body["repeat_last_n"] == body["dry_penalty_last_n"] == 2048


def test_several_answers_to_an_empty_prompt_are_refused() -> None:
    """llama-server would never complete them."""
    two = replace(SPEC, parameters=replace(SPEC.parameters, n_seq_max=2))
    empty = [{"role": "user", "content": [{"type": "text", "text": " "}]}, {"role": "assistant", "content": None}]
    for path, body in (("/v1/completions", {"prompt": " "}), ("/v1/chat/completions", {"messages": empty})):
        with pytest.raises(RequestRefused, match="the prompt is empty") as refused:
            parse(path, json.dumps({**body, "n": 2}).encode(), two)
        assert refused.value.param == "n"
        assert "n" not in parse(path, json.dumps(body).encode(), two).body
    for prompt in ("a", [0]):
        assert parse("/v1/completions", json.dumps({"prompt": prompt, "n": 2}).encode(), two).body["n"] == 2
    assert chat(two, n=2).body["n"] == 2


@pytest.mark.parametrize("field", ["repeat_last_n", "dry_penalty_last_n", "top_k", "seed"])
def test_whole_numbers_may_be_written_with_a_point(field: str) -> None:
    sent = chat(**{field: 100.0}).body[field]
    assert (sent, type(sent)) == (100, int)


def test_log_probabilities_without_alternatives_are_those_of_the_chosen_tokens() -> None:
    assert chat(logprobs=True).body["top_logprobs"] == 1
    assert chat(logprobs=True, top_logprobs=0).body["top_logprobs"] == 1
    assert chat(logprobs=True, top_logprobs=20).body["top_logprobs"] == 20
    assert completion(logprobs=0).body["logprobs"] == 1


def test_a_named_function_is_the_only_tool_and_has_to_be_called() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "ping")]
    choice = {"type": "function", "function": {"name": "ping"}}
    body = chat(with_demanding_template(SPEC), tools=tools, tool_choice=choice).body
    assert body["tools"] == tools[1:]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)


@pytest.mark.parametrize("arguments", ["", " ", None, "{}", {}])
def test_arguments_of_a_tool_call_are_json_text(arguments: Any) -> None:
    call = {"id": "1", "type": None, "function": {"name": "ping", "arguments": arguments}, "index": 0}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO]
    sent = chat(with_demanding_template(SPEC), messages=messages).body["messages"][1]
    assert sent == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}],
    }


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "folded"),
    [
        ([message("system", "A"), message("user", "B")], [message("user", "A\nB")]),
        ([message("developer", "A"), message("system", "B"), message("user", "C")], [message("user", "A\nB\nC")]),
        ([message("system", "A")], [message("user", "A")]),
        (
            [message("system", "A"), message("assistant", "B"), message("user", "C")],
            [message("user", "A"), message("assistant", "B"), message("user", "C")],
        ),
        (
            [message("user", "A"), message("assistant", "B"), message("system", "C"), message("user", "D")],
            [message("user", "A"), message("assistant", "B"), message("user", "C\nD")],
        ),
        ([message("user", "A"), message("system", "B")], [message("user", "A\nB")]),
        (
            [message("system", "A"), message("user", [{"type": "text", "text": "B"}])],
            [message("user", [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}])],
        ),
        ([message("system", ""), message("user", "B")], [message("user", "B")]),
    ],
    ids=["before", "two", "alone", "greeting", "in the middle", "at the end", "parts", "empty"],
)
def test_system_messages_become_the_users_where_the_template_knows_none(
    messages: list[dict[str, Any]], folded: list[dict[str, Any]]
) -> None:
    assert chat(with_demanding_template(SPEC), messages=messages).body["messages"] == folded


def test_what_a_template_would_leave_out_is_refused_by_name() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    called = [*HELLO, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "a", "tool_call_id": "1"}]
    for param, fields in (
        ("tools", {"tools": tools}),
        ("messages", {"messages": called}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
    ):
        assert chat(with_demanding_template(SPEC), **fields).body[param] == fields[param] or param == "messages"
        with pytest.raises(RequestRefused, match="the chat template of org/name does not use them") as refused:
            chat(**fields)
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)
    assert "tool_choice" in chat(tools=tools, tool_choice="none").body


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"input": "a"}, {"input": ["a"], "encoding_format": "float"}),
        ({"input": ["a", ""], "encoding_format": "base64"}, {"input": ["a", ""], "encoding_format": "base64"}),
        ({"input": [1, 2]}, {"input": [[1, 2]], "encoding_format": "float"}),
        ({"input": [[1], [2, 3]], "user": "a"}, {"input": [[1], [2, 3]], "encoding_format": "float"}),
        ({"input": "a", "dimensions": None, "encoding_format": None}, {"input": ["a"], "encoding_format": "float"}),
    ],
)
def test_inputs_of_embeddings_are_texts_or_tokens(given: dict[str, Any], sent: dict[str, Any]) -> None:
    request = parse("/v1/embeddings", json.dumps(given).encode(), replace(SPEC, kind=ModelKind.EMBEDDING))
    assert (request.path, request.stream) == ("/v1/embeddings", False)
    assert request.body == {"model": "org/name", **sent}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_documents_of_a_reranking_are_texts(path: str) -> None:
    given = {"model": None, "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": False}
    request = parse(path, json.dumps(given).encode(), replace(SPEC, kind=ModelKind.RERANKER))
    assert request.path == "/v1/rerank"
    assert request.body == {"model": "org/name", "query": "a", "documents": ["b", "c"], "top_n": 1}


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        ("/v1/embeddings", "input", {}),
        ("/v1/embeddings", "input", {"input": []}),
        ("/v1/embeddings", "input", {"input": [[]]}),
        ("/v1/embeddings", "input", {"input": ["a", 1]}),
        ("/v1/embeddings", "input", {"input": [True]}),
        ("/v1/embeddings", "input", {"input": [4096]}),
        ("/v1/embeddings", "input", {"input": {"content": []}}),
        ("/v1/embeddings", "input", {"input": ["a"] * 3000}),
        ("/v1/embeddings", "dimensions", {"input": "a", "dimensions": 8}),
        ("/v1/embeddings", "encoding_format", {"input": "a", "encoding_format": "int8"}),
        ("/v1/embeddings", "content", {"content": "a"}),
        ("/v1/rerank", "query", {"documents": ["a"]}),
        ("/v1/rerank", "documents", {"query": "a", "documents": []}),
        ("/v1/rerank", "documents.0", {"query": "a", "documents": [{"title": "a"}]}),
        ("/v1/rerank", "top_n", {"query": "a", "documents": ["a"], "top_n": 0}),
        ("/v1/rerank", "return_documents", {"query": "a", "documents": ["a"], "return_documents": True}),
        ("/v1/rerank", "texts", {"query": "a", "texts": ["a"]}),
    ],
)
def test_what_is_wrong_with_inputs_is_named(path: str, param: str, fields: dict[str, Any]) -> None:
    kind = ModelKind.EMBEDDING if path == "/v1/embeddings" else ModelKind.RERANKER
    with pytest.raises(RequestRefused) as refused:
        parse(path, json.dumps(fields).encode(), replace(SPEC, kind=kind))
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        (ModelKind.TEXT, {"/v1/chat/completions", "/v1/completions"}),
        (ModelKind.EMBEDDING, {"/v1/embeddings"}),
        (ModelKind.RERANKER, {"/v1/rerank", "/rerank"}),
    ],
)
def test_an_endpoint_for_models_of_another_kind_says_what_this_one_is(kind: ModelKind, paths: set[str]) -> None:
    for path in ENDPOINTS.keys() - paths:
        with pytest.raises(RequestRefused, match=rf"org/name is {kind.noun}, which .*: use /v1/") as refused:
            parse(path, b"{}", replace(SPEC, kind=kind))
        assert (refused.value.status, refused.value.code) == (404, "unsupported_endpoint")


def test_every_parameter_of_a_plan_is_an_argument_of_llama_server() -> None:
    parameters = Parameters(
        n_ctx=8192,
        n_threads=3,
        n_threads_batch=5,
        n_batch=1024,
        n_ubatch=256,
        n_seq_max=4,
        n_gpu_layers=12,
        tensor_split=(3.0, 1.0),
        flash_attn="on",
        type_k="q8_0",
        type_v="q4_0",
        use_mmap=False,
        use_mlock=True,
        use_extra_bufts=False,
        swa_full=False,
    )
    words = llama_server_arguments(parameters)
    command = " ".join(words)
    for expected in (
        "--ctx-size 8192",
        "--parallel 4",
        "--batch-size 1024",
        "--ubatch-size 256",
        "--threads 3",
        "--threads-batch 5",
        "--gpu-layers 12",
        "--tensor-split 3.0,1.0",
        "--flash-attn on",
        "--cache-type-k q8_0",
        "--cache-type-v q4_0",
        "--load-mode mlock",
        "--no-repack",
    ):
        assert expected in command
    assert "--swa-full" not in words
    whole = llama_server_arguments(replace(parameters, n_gpu_layers=-1, swa_full=True))
    assert " ".join(whole).count("--gpu-layers all") == 1
    assert "--swa-full" in whole
